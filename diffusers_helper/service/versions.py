"""Which versions of the large libraries the program is tested with; read from their metadata, importing none."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message

logger = logging.getLogger(__name__)

TESTED = {
    "torch": ("2.11", "2.13"),
    "diffusers": ("0.42", "0.42"),
    "transformers": ("5.17", "5.23"),
    "gradio": ("6.31", "6.31"),
    "av": ("18.1", "18.1"),
}
"""The oldest and the newest version of each; requirements.txt names the newest exactly."""


@dataclass(frozen=True)
class Package:
    """One library: its name, the version that is installed (None if it is not), and those it is tested with."""

    name: str
    installed: str | None
    oldest: str
    newest: str

    @property
    def too_old(self) -> bool:
        """Whether it is missing or older than all that was tested."""
        return self.installed is None or _parts(self.installed) < _parts(self.oldest)

    @property
    def untested(self) -> bool:
        """Whether it is newer than all that was tested."""
        return self.installed is not None and _parts(self.installed) > _parts(self.newest)


def installed_packages(tested: Mapping[str, tuple[str, str]] = TESTED) -> list[Package]:
    """Look at every library of `tested`, which has the oldest and the newest version of each."""
    return [Package(name, _installed(name), *versions) for name, versions in tested.items()]


def require_versions(tested: Mapping[str, tuple[str, str]] = TESTED) -> None:
    """Raise SettingsError if a library is missing or too old; a newer one is a line in the log."""
    for package in installed_packages(tested):
        if package.installed is None:
            raise SettingsError(
                Message(
                    "{name} is not installed in this Python. Run scripts/setup, which installs it.", name=package.name
                )
            )
        if package.too_old:
            raise SettingsError(
                Message(
                    "{name} {installed} is too old: {oldest} is needed. Run scripts/setup, which installs it.",
                    name=package.name,
                    installed=package.installed,
                    oldest=package.oldest,
                )
            )
        if package.untested:
            logger.warning("%s %s is newer than what was tested (%s)", package.name, package.installed, package.newest)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _parts(text: str) -> tuple[int, int]:
    """The first two numbers of a version, which is all that is compared."""
    major, minor = re.match(r"(\d+)\.?(\d*)", text + ".").groups()  # type: ignore[union-attr]
    return int(major), int(minor or 0)
