"""Where a model comes from: what its two kinds, `local_folder` and `hub_source`, have in common."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.model_files.checksums import ChecksumRecord, Report, find_changed
from diffusers_helper.model_files.parts import Part
from diffusers_helper.model_files.problems import Problem
from diffusers_helper.model_files.sizes import free_bytes, readable_size

OnProgress = Callable[[str, int, int], None]
"""Gets a part's title, the bytes of it that are here, and its bytes in all; may raise to stop a download."""


class ModelSource(ABC):
    """A model's files.

    Attributes:
        title: name of the model, for people.
        trained: whether its pictures show something; random weights give noise.
        is_tiny: whether it is the small one that ships with the repository.
        defaults: a request with the resolution (never None), steps and guidance scale that suit it.
        step_ratios: what MagCache has to know of its transformers, by variant, where the model's folder says it.
        record: which files were compared with their checksums.
    """

    title = "FramePack"
    trained = True
    is_tiny = False
    defaults = GenerationRequest(resolution=640)
    step_ratios: Mapping[str, tuple[float, ...]] = MappingProxyType({})
    record = ChecksumRecord(None)

    @property
    def note(self) -> str:
        """A sentence about the model that a user must see; empty for none."""
        noise = [] if self.trained else [Message("Its weights are random, so its pictures are noise.")]
        if not self.is_tiny:
            return join_sentences(noise)
        advice = Message("For people who move, start the program with --models framepack on a computer with a GPU.")
        return join_sentences(
            [Message("The tiny model is at work: it moves the camera and changes the light."), *noise, advice]
        )

    @property
    @abstractmethod
    def root(self) -> Path:
        """The folder below which the files are, or will be."""

    @property
    def lora_folders(self) -> tuple[Path, ...]:
        """Folders of LoRA files that come with the model; none has to exist."""
        return ()

    @property
    def preview_decoder(self) -> Path | None:
        """The file of the small decoder that comes with the model for previews; None if there is none."""
        return None

    @abstractmethod
    def inspect(self, part: Part) -> tuple[Path | None, list[Problem]]:
        """The folder of `part`, None if nothing of it is there, and all that is wrong with its files; no network."""

    def sums(self, _part: Part) -> dict[str, str]:
        """SHA-256 sums of files of `part` by their names, where the files themselves do not tell them."""
        return {}

    def revision(self, _part: Part) -> str | None:
        """The commit of the part's repository; None if that is not known."""
        return None

    def chosen(self, _part: Part) -> str:
        """Which version of the part's repository is used, and why, for the log; "" where there is only one."""
        return ""

    def require_unchanged(self, part: Part, folder: Path, report: Report) -> None:
        """Compare the files of `part` in `folder` with their checksums, as far as known and not done before.

        `report` gets the bytes that were read and those in all. Raises ModelFilesError for a file that was changed.
        """
        problems, _ = find_changed(part, folder, self.sums(part), record=self.record, report=report)
        if problems:
            raise ModelFilesError(problems[0].sentence(part))

    @abstractmethod
    def check(self, variants: Iterable[str], *, offline: bool = False) -> None:
        """Raise ModelFilesError, one sentence and what to do, if the named variants' files are not usable.

        Reads headers alone. Files that only have to be downloaded are no error, unless `offline` or the disk forbids.
        """

    def check_parts(self, wanted: Iterable[Part], *, offline: bool = False) -> None:
        """The same for single parts."""
        for part in wanted:
            self.folder(part, offline=offline)

    @abstractmethod
    def folder(self, part: Part, *, offline: bool = False, on_progress: OnProgress | None = None) -> Path:
        """The folder with the complete files of `part`, downloaded if they must be; raises ModelFilesError."""


def room(need: int, where: Path) -> Message:
    """Say how much is still to download, and how much is free there."""
    sizes = {"need": readable_size(need), "free": readable_size(free_bytes(where))}
    return Message("Still to download: {need}; free in {where}: {free}.", where=where, **sizes)


def fetching_commands(parts: Iterable[Part], where: str) -> str:
    """The shell commands that fetch `parts`; `where` is the option that says where to."""
    patterns: dict[str, list[str]] = {}
    for part in parts:
        patterns.setdefault(part.repository, []).append(f"{part.folder}/*" if part.folder else "*")
    return " && ".join(
        f"hf download {repository} {' '.join(f'--include {shlex.quote(name)}' for name in names)} {where}"
        for repository, names in patterns.items()
    )
