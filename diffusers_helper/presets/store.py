"""Where presets are kept: a folder for each user, a file for each preset, whole or not there.

A file that is damaged is told of and harms no other one. What is deleted or replaced can be brought back.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import atomic_write, display_name, json_bytes, output_error, parsed_json, read_own
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.presets.preset import (
    MAX_BYTES,
    Preset,
    clean_name,
    file_name,
    from_bytes,
    held,
    key_of,
    to_bytes,
)

MOST, MOST_OF_STRANGERS = 100, 2000
"""How many presets a user has, and how many all browsers of other computers have together where nobody signs in."""
MOST_DELETED = 50
STRANGER = "client_"
"""How the folders begin of browsers of other computers."""
_DELETED, _START = "deleted", "at_start"


@dataclass(frozen=True)
class Listed:
    """The presets of one user: those that come along first, then their own by name; and a sentence for each file that
    cannot be read."""

    presets: tuple[Preset, ...]
    faults: tuple[str, ...] = ()


class PresetFolders:
    """The presets of all users. Safe to use from several threads.

    Args:
        root: the folder; None for nothing that can be kept.
        along: the presets that come along.
    """

    def __init__(self, root: Path | None, along: Sequence[Preset] = ()) -> None:
        self._root = root
        self._along = tuple(along)
        self._lock = threading.RLock()

    def of(self, user: str = "") -> PresetStore:
        """Return the presets of one user, by the name of a folder; without one those of whoever sits at this computer.

        The folder is made with the first preset.
        """
        folder = self._root / user if self._root is not None else None
        return PresetStore(folder, self._along, self._lock)


class PresetStore:
    """The presets of one user, by their names. See `PresetFolders.of`."""

    def __init__(self, folder: Path | None, along: tuple[Preset, ...], lock: threading.RLock) -> None:
        self._folder = folder
        self._along = along
        self._lock = lock

    def listed(self) -> Listed:
        """Return all of them."""
        faults: list[str] = []
        found = sorted((preset for _, preset in self._read(faults)), key=lambda preset: key_of(preset.name))
        return Listed((*self._along, *found), tuple(faults))

    def load(self, name: object) -> Preset:
        """Return the preset of a name; raises SettingsError if there is none."""
        along = next((preset for preset in self._along if key_of(preset.name) == key_of(str(name))), None)
        return along or self._found(str(name))[1]

    def save(self, name: object, request: GenerationRequest, fields: Sequence[str]) -> Preset:
        """Keep those of `fields` of a request that presets hold; one of the same name is deleted first.

        Raises SettingsError for a name that cannot be, or where there are too many, and OutputError.
        """
        name = clean_name(name)
        if any(key_of(preset.name) == key_of(name) for preset in self._along):
            raise SettingsError(Message("“{name}” comes along with the program: choose another name.", name=name))
        settings = held(request, fields, fields)
        with self._lock:
            folder = self._made()
            file = self._file(name)
            if file is not None:
                self._away(file, name, stays=True)
            else:
                self._require_room(folder)
                file = folder / file_name(name)
                if os.path.lexists(file):  # a damaged one
                    self._away(file, name)
            _write(file, to_bytes(name, request, settings))
        return Preset(name, settings)

    def delete(self, name: object) -> Preset:
        """Put a preset where `restore` finds it; raises SettingsError if there is none, or if it comes along."""
        with self._lock:
            preset = self.load(name)
            if not preset.own:
                raise SettingsError(Message("“{name}” comes along with the program and stays.", name=preset.name))
            self._away(self._found(preset.name)[0], preset.name)
        return preset

    def restore(self, name: object) -> Preset:
        """Bring back what was deleted or replaced last under a name; what is there now takes its place.

        Raises SettingsError if there is none, and OutputError.
        """
        with self._lock:
            name = clean_name(name)
            folder = self._folder  # which is not made for this
            if folder is None:
                raise SettingsError(Message("No presets can be kept here."))
            deleted, file = folder / _DELETED / file_name(name), self._file(name)
            aside = deleted.with_suffix(".back")
            try:
                if os.path.lexists(aside) and not os.path.lexists(deleted):  # killed between the last two steps
                    aside.replace(deleted)
                if not os.path.lexists(deleted):
                    raise SettingsError(Message("No preset called “{name}” was deleted.", name=name))
                if file is not None:
                    _copy(file, aside)
                deleted.replace(file or folder / file_name(name))
                if file is not None:
                    aside.replace(deleted)
            except OSError as error:
                raise output_error(folder / file_name(name), error) from error
        return self.load(name)

    @property
    def at_start(self) -> str:
        """The name of the preset that the page begins with; empty for none, or for one that is gone."""
        if self._folder is None:
            return ""
        try:
            return self.load(parsed_json(read_own(self._folder / _START, MAX_BYTES))).name
        except (OSError, ValueError, SettingsError):
            return ""

    def use_at_start(self, name: object) -> None:
        """Let the page begin with the preset of a name, or with none; raises SettingsError and OutputError."""
        chosen = self.load(name).name if name else ""
        with self._lock:
            _write(self._made() / _START, json_bytes(chosen))

    def _read(self, faults: list[str]) -> list[tuple[Path, Preset]]:
        """Return the files that are presets; tell of the others."""
        if self._folder is None or not self._folder.is_dir():
            return []
        found: dict[str, tuple[Path, Preset]] = {}
        for file in sorted(self._folder.glob("*.json")):
            try:
                preset = from_bytes(read_own(file, MAX_BYTES))
                found.setdefault(key_of(preset.name), (file, preset))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or Message("it is no preset of this program")
                faults.append(Message("{file} cannot be read: {reason}.", file=display_name(file), reason=reason))
        return [each for each in found.values() if not self._comes_along(each[1])]

    def _comes_along(self, preset: Preset) -> bool:
        return any(key_of(each.name) == key_of(preset.name) for each in self._along)

    def _file(self, name: str) -> Path | None:
        return next((file for file, preset in self._read([]) if key_of(preset.name) == key_of(name)), None)

    def _found(self, name: str) -> tuple[Path, Preset]:
        for file, preset in self._read([]):
            if key_of(preset.name) == key_of(name):
                return file, preset
        raise SettingsError(Message("There is no preset called “{name}”.", name=display_name(name)))

    def _made(self) -> Path:
        if self._folder is None:
            raise SettingsError(Message("No presets can be kept here."))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self._folder, error) from error
        return self._folder

    def _require_room(self, folder: Path) -> None:
        strangers = folder.parent.glob(f"{STRANGER}*/**/*.json") if folder.name.startswith(STRANGER) else ()
        if len(list(folder.glob("*.json"))) >= MOST or sum(1 for _ in strangers) >= MOST_OF_STRANGERS:
            raise SettingsError(Message("There are too many presets: delete one first."))

    def _away(self, file: Path, name: str, *, stays: bool = False) -> None:
        """Put a preset's file where `restore` finds it, and drop the oldest of those there.

        One that `stays` is copied: another one takes its place as a whole, and a kill leaves the menu with either.
        """
        place = file.parent / _DELETED / file_name(name)
        try:
            place.parent.mkdir(exist_ok=True)
            _copy(file, place) if stays else file.replace(place)
        except OSError as error:
            raise output_error(file, error) from error
        with suppress(OSError):  # a few more of them harm nobody
            deleted = sorted(place.parent.glob("*.json"), key=lambda each: each.stat().st_ctime_ns)
            for old in deleted[:-MOST_DELETED]:
                old.unlink(missing_ok=True)


def _copy(file: Path, place: Path) -> None:
    with atomic_write(place) as part:
        part.write_bytes(read_own(file, MAX_BYTES))


def _write(file: Path, content: bytes) -> None:
    try:
        with atomic_write(file) as part:
            part.write_bytes(content)
    except OSError as error:
        raise output_error(file, error) from error
