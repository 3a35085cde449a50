"""A model in a folder that holds the repositories by their ids: put there by the user, or shipped with the program."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.model_files.check import find_problems, intact_bytes
from diffusers_helper.model_files.parts import Part, parts_for
from diffusers_helper.model_files.problems import Problem
from diffusers_helper.model_files.settings_file import read_settings
from diffusers_helper.model_files.source import ModelSource, OnProgress, fetching_commands, room

SUMS_FILE = "SHA256SUMS"
PREVIEW_FILE = "preview_decoder.safetensors"


class LocalFolder(ModelSource):
    """A folder that holds the repositories by their ids.

    `framepack.json` in it, if there is one, gives what `settings_file` describes.
    """

    def __init__(self, path: Path, *, is_tiny: bool = False) -> None:
        self.path = path
        self.is_tiny = is_tiny
        settings = read_settings(path)
        self.title = settings.title or path.name
        self.trained = settings.trained
        self.same_files = settings.same_files
        self.defaults = settings.defaults
        self.step_ratios = settings.step_ratios

    @property
    def root(self) -> Path:
        """The folder itself."""
        return self.path

    @property
    def lora_folders(self) -> tuple[Path, ...]:
        """As in the base class: `loras` in it."""
        return (self.path / "loras",)

    @property
    def preview_decoder(self) -> Path | None:
        """As in the base class: PREVIEW_FILE in it."""
        return preview_in(self.path)

    def inspect(self, part: Part) -> tuple[Path | None, list[Problem]]:
        """As in the base class."""
        folder = self._place(part)
        return (folder if folder.is_dir() else None), find_problems(part, folder)

    def sums(self, part: Part) -> dict[str, str]:
        """From the file that `models copy` writes, which `sha256sum -c` reads as well."""
        place = self._place(part).relative_to(self.path)
        return {Path(name).name: digest for name, digest in read_sums(self.path).items() if Path(name).parent == place}

    def _place(self, part: Part) -> Path:
        return self.path / self.same_files.get(part.repository, part.repository) / part.folder

    def check(self, variants: Iterable[str], *, offline: bool = False) -> None:
        """As in the base class; nothing is ever downloaded into a local folder."""
        for part in parts_for(variants):
            self.folder(part)

    def folder(self, part: Part, *, offline: bool = False, on_progress: OnProgress | None = None) -> Path:
        """The folder of `part`, after a look at its files; raises ModelFilesError."""
        folder = self._place(part)
        problems = find_problems(part, folder)
        if not problems:
            return folder
        problem = problems[0]
        text = Message(
            "{file} ({part} of {repository}) {problem}.",
            file=folder / problem.file,
            part=part.title,
            repository=part.repository,
            problem=problem.text,
        )
        if self.is_tiny:
            command = f"git -C {shlex.quote(str(self.path))} checkout -- ."
            advice = [Message("It ships with the repository: {command}", command=command)]
        elif problem.fault.fetching_helps:
            lacking = max(part.size - intact_bytes(part, folder, problems), 0)
            where = f"--local-dir {shlex.quote(str(self.path / part.repository))}"
            command = Message("Fetch it with: {command}", command=fetching_commands([part], where))
            advice = [room(lacking, self.path), command]
        else:
            advice = [Message("Put the files of {repository} there instead.", repository=part.repository)]
        raise ModelFilesError(join_sentences([text, *advice]))


def preview_in(folder: Path) -> Path | None:
    """The file of a preview decoder in a folder of models, if there is one."""
    file = folder / PREVIEW_FILE
    return file if file.is_file() else None


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 sums by path below `folder`, from its SHA256SUMS; empty without one."""
    file = folder / SUMS_FILE
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    except OSError:  # it only says what could be compared
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
