"""The public checkpoints: in the Hugging Face cache, or downloaded into it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.model_files.check import find_problems, intact_bytes
from diffusers_helper.model_files.checksums import find_changed
from diffusers_helper.model_files.hub import HubError, HuggingFaceHub
from diffusers_helper.model_files.parts import Part, parts_for
from diffusers_helper.model_files.problems import Fault, Problem
from diffusers_helper.model_files.revisions import LOCK_FILE, Revisions
from diffusers_helper.model_files.sizes import free_bytes
from diffusers_helper.model_files.source import ModelSource, OnProgress, fetching_commands, room

_OFFLINE = Message("Going online is switched off.")


class HubSource(ModelSource):
    """The public checkpoints, from the Hugging Face cache or downloaded into it."""

    def __init__(self, hub: HuggingFaceHub | None = None, lock: Path = LOCK_FILE) -> None:
        self.hub = hub or HuggingFaceHub(revisions=Revisions(lock))

    @property
    def root(self) -> Path:
        """The cache."""
        return self.hub.cache_dir

    def check(self, variants: Iterable[str], *, offline: bool = False) -> None:
        """As in the base class; asks the hub for sizes only when something has to be downloaded."""
        self.check_parts(parts_for(variants), offline=offline)

    def check_parts(self, wanted: Iterable[Part], *, offline: bool = False) -> None:
        """As in the base class."""
        lacking = {}
        for part in wanted:
            _folder, problems = self.inspect(part)
            if problems:
                lacking[part] = problems
        if not lacking:
            return
        if offline or self.hub.offline:
            raise self._unavailable(lacking, _OFFLINE)
        try:
            need = sum(self._bytes_lacking(part, problems) for part, problems in lacking.items())
        except HubError as error:
            raise self._unavailable(lacking, str(error)) from error
        if need > free_bytes(self.hub.cache_dir):
            raise ModelFilesError(
                join_sentences(
                    [
                        *_lacking_texts(lacking),
                        room(need, self.hub.cache_dir),
                        Message("Make room there, or set HF_HOME to a folder on a larger disk."),
                    ]
                )
            )

    def folder(self, part: Part, *, offline: bool = False, on_progress: OnProgress | None = None) -> Path:
        """The folder of `part` in the cache, downloaded or completed first where needed; raises ModelFilesError."""
        folder, problems = self.inspect(part)
        if folder is not None and not problems:
            return folder
        if offline or self.hub.offline:
            raise self._unavailable({part: problems}, _OFFLINE)
        try:
            return self._fetch(part, problems, on_progress)
        except HubError as error:
            raise self._unavailable({part: problems}, str(error)) from error

    def inspect(self, part: Part) -> tuple[Path | None, list[Problem]]:
        """As in the base class."""
        folder = self.hub.cached_folder(part)
        return folder, find_problems(part, folder or self.hub.cache_dir / "nothing")

    def revision(self, part: Part) -> str | None:
        """As in the base class."""
        return self.hub.revision(part)

    def chosen(self, part: Part) -> str:
        """As in the base class."""
        return self.hub.chosen(part)

    def _bytes_lacking(self, part: Part, problems: list[Problem]) -> int:
        """Bytes to download; raises HubError, and ModelFilesError if the hub has no safetensors of the part."""
        sizes = self.hub.sizes(part)
        if part.weights and not any(name.endswith(".safetensors") for name in sizes):
            raise ModelFilesError(
                Message(
                    "{repository} has no safetensors files of {part}, and others are not read.",
                    repository=part.repository,
                    part=part.title,
                )
            )
        return self.hub.bytes_lacking(part, {problem.file for problem in problems})

    def _fetch(self, part: Part, problems: list[Problem], on_progress: OnProgress | None) -> Path:
        total = sum(self.hub.sizes(part).values())
        here = total - self._bytes_lacking(part, problems)

        def report(received: int) -> None:
            if on_progress:
                on_progress(part.title, min(here + received, total), total)

        report(0)
        folder = self.hub.fetch(part, report)
        problems = self._all_problems(part, folder)
        for problem in problems:
            if problem.fault in (Fault.DAMAGED, Fault.FOREIGN):
                self.hub.fetch_again(part, folder, problem.file, report)
        left = self._all_problems(part, folder) if problems else []
        if left:
            raise ModelFilesError(
                join_sentences([left[0].sentence(part), Message("It was downloaded again already. Try again later.")])
            )
        return folder

    def _all_problems(self, part: Part, folder: Path) -> list[Problem]:
        """What is wrong with files that were just downloaded: as ever, and byte for byte."""
        return find_problems(part, folder) or find_changed(part, folder, record=self.record)[0]

    def _unavailable(self, lacking: dict[Part, list[Problem]], reason: str) -> ModelFilesError:
        need = 0
        for part, problems in lacking.items():
            folder = self.hub.cached_folder(part)
            need += max(part.size - (intact_bytes(part, folder, problems) if folder else 0), 0)
        command = fetching_commands(lacking, f"--cache-dir {shlex.quote(str(self.hub.cache_dir))}")
        return ModelFilesError(
            join_sentences(
                [
                    *_lacking_texts(lacking),
                    reason,
                    room(need, self.hub.cache_dir),
                    Message("Fetch the files where there is a network: {command}", command=command),
                ]
            )
        )


def _lacking_texts(lacking: dict[Part, list[Problem]]) -> list[Message]:
    part, problems = next(iter(lacking.items()))
    others = len(lacking) - 1
    texts = [problems[0].sentence(part)]
    if others == 1:
        texts.append(Message("Files of one more part are not in order either."))
    elif others:
        texts.append(Message("Files of {number} more parts are not in order either.", number=others))
    return texts
