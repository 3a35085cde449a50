"""Where everything that the program writes is kept, and the user's LoRA files are: one frozen record.

It is made from the options and the environment.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message

ROOT = Path(__file__).resolve().parents[2]
"""The program's own folder. What is written goes below it too, where that can be and nothing else was said."""
INSTALLED = ("site-packages", "dist-packages")
"""What pip calls the folder that it installs into, which is nobody's place for videos."""
DATA_VARIABLE = "FRAMEPACK_DATA"
PRIVATE, SHARED = 0o077, 0o022
"""What is taken from the permissions of new files: all from others, or only writing."""


@dataclass(frozen=True)
class Folders:
    """Where everything is.

    Attributes:
        data: below it are run files (`run/PORT*.json`) and the logs of instances (`output_PORT.log`).
        outputs: results, and the jobs that are not done.
        cache: work that can be done again.
        logs, uploads: a folder for each port.
        weights: what HF_HOME is set to unless the user did.
        models_lock: the file with the commits of the models' repositories.
        loras: where LoRA files are looked for, the first before the next.
        wildcards: text files whose lines a prompt may take, by their names.
        presets: settings that users keep under names.
    """

    data: Path
    outputs: Path
    cache: Path
    logs: Path
    uploads: Path
    weights: Path
    models_lock: Path
    loras: tuple[Path, ...]
    wildcards: Path
    presets: Path

    @classmethod
    def chosen(
        cls,
        data: Path | None = None,
        outputs: Path | None = None,
        cache: Path | None = None,
        loras: tuple[Path, ...] = (),
        environment: Mapping[str, str] = os.environ,
    ) -> Folders:
        """Return the folders that options and environment choose.

        Args:
            data: of `--data`; the default for all others. Without it `FRAMEPACK_DATA` counts; without both, each is
                below the program's folder if it can be written there (and pip did not make it), else below
                `XDG_STATE_HOME/framepack`.
            outputs: of `--outputs`.
            cache: of `--cache`.
            loras: of `--loras`.
            environment: of the process.
        """
        given = data or (
            Path(os.path.expanduser(environment[DATA_VARIABLE])) if environment.get(DATA_VARIABLE) else None
        )

        def place(name: str, *, read_only: bool = False) -> Path:
            if given is not None:
                return given.resolve() / name
            own = ROOT / name
            if ROOT.name in INSTALLED:
                return _state_folder(environment) / name
            usable = can_write(own) or (read_only and os.access(own, os.R_OK))
            return own if usable else _state_folder(environment) / name

        return cls(
            data=place(""),
            outputs=outputs.resolve() if outputs else place("outputs"),
            cache=cache.resolve() if cache else place("cache"),
            logs=place("logs"),
            uploads=place("uploads"),
            weights=place("hf_download", read_only=True),
            models_lock=place("models.lock", read_only=True),
            loras=tuple(folder.resolve() for folder in loras) or (place("loras", read_only=True),),
            wildcards=place("wildcards", read_only=True),
            presets=place("presets"),
        )


def folder_name(text: str) -> Path:
    """Return the folder that an option names; raises ArgumentTypeError."""
    try:
        return Path(text).expanduser().resolve()
    except (RuntimeError, ValueError, OSError) as error:  # "~nobody", a NUL, links in a circle
        raise argparse.ArgumentTypeError(f"{text!r} is no folder: {error}") from None


def _state_folder(environment: Mapping[str, str]) -> Path:
    if chosen := environment.get("XDG_STATE_HOME"):
        return Path(chosen) / "framepack"
    try:
        return Path.home() / ".local" / "state" / "framepack"
    except RuntimeError:  # an account without a home: what cannot be written is told by name
        return ROOT


def can_write(path: Path) -> bool:
    """Tell whether `path`, or the folder in which it would be made, can be written; nothing is made."""
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if os.path.isdir(nearest):
        return os.access(nearest, os.W_OK | os.X_OK)
    return nearest == path and os.path.isfile(nearest) and os.access(nearest, os.W_OK)


def require_writable(folder: Path, option: str) -> None:
    """Raise SettingsError, naming the `option` that chooses another, if `folder` cannot be made or written."""
    if not can_write(folder) or os.path.isfile(folder):
        raise SettingsError(
            Message(
                "{folder} cannot be made or written. Change its permissions, or choose another folder with {option}.",
                folder=folder,
                option=option,
            )
        )


@contextmanager
def file_permissions(*, shared: bool) -> Iterator[None]:
    """Make new files and folders inside private to this account, or readable for others too."""
    before = os.umask(SHARED if shared else PRIVATE)
    try:
        yield
    finally:
        os.umask(before)
