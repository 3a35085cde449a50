"""A model whose parts are files and folders here and there: ComfyUI's, or those that a framepack.json names.

What is not among them is looked for in the Hugging Face cache. Only what is small is fetched: the tokenizers, which
such files do not hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.model_files import parts
from diffusers_helper.model_files.check import find_problems
from diffusers_helper.model_files.comfyui import FOLDERS, Found
from diffusers_helper.model_files.local_folder import preview_in, read_sums
from diffusers_helper.model_files.parts import PUBLISHED, Part, parts_for
from diffusers_helper.model_files.problems import Fault, Problem
from diffusers_helper.model_files.settings_file import FolderSettings
from diffusers_helper.model_files.sizes import readable_size
from diffusers_helper.model_files.source import ModelSource, OnProgress

SMALL = 20_000_000
"""Bytes of a part that is fetched without asking."""


class NamedFiles(ModelSource):
    """Parts by name.

    Args:
        path: the folder that was chosen.
        settings: what its framepack.json says; its `parts` come before those that were found.
        found: parts among ComfyUI's files.
        rest: has what is not there.
    """

    def __init__(self, path: Path, settings: FolderSettings, found: Found, rest: ModelSource) -> None:
        self.path = path
        self.title = settings.title or ("ComfyUI" if found.candidates else path.name)
        self.trained = settings.trained
        self.defaults = settings.defaults
        self.step_ratios = settings.step_ratios
        self._found = found
        self._rest = rest
        self.places = {name: files[0] for name, files in found.candidates.items()} | settings.parts

    @property
    def root(self) -> Path:
        """The folder that was chosen."""
        return self.path

    @property
    def lora_folders(self) -> tuple[Path, ...]:
        """As in the base class: `loras` in it."""
        return (self.path / "loras",)

    @property
    def preview_decoder(self) -> Path | None:
        """As in the base class: as in other folders of models."""
        return preview_in(self.path)

    def inspect(self, part: Part) -> tuple[Path | None, list[Problem]]:
        """As in the base class; the path is a file of weights, or a folder."""
        place = self._place(part)
        if place is None:
            folder, problems = self._rest.inspect(part)
            if not problems or part.size < SMALL:
                return folder, problems
            return None, [Problem(part.title, Message("is not in {folder}", folder=self.path), Fault.MISSING)]
        if not place.exists():
            return None, [Problem(str(place), Message("is missing"), Fault.MISSING)]
        if place.is_file() and not part.weights:
            return None, [Problem(str(place), Message("is a file, where a folder is needed"), Fault.FOREIGN)]
        return place, find_problems(part, place)

    def sums(self, part: Part) -> dict[str, str]:
        """As in the base class: from the file that `models copy` writes."""
        place = self._place(part)
        if place is None:
            return self._rest.sums(part)
        folder = place.parent if place.is_file() else place
        return {
            Path(name).name: one
            for name, one in read_sums(self.path).items()
            if self.path / Path(name).parent == folder
        }

    def revision(self, part: Part) -> str | None:
        """As in the base class."""
        return None if self._place(part) else self._rest.revision(part)

    def chosen(self, part: Part) -> str:
        """As in the base class."""
        place, files = self._place(part), self._found.candidates.get(part.name, [])
        if place is None:
            return self._rest.chosen(part)
        if len(files) < 2 or files[0] != place:
            return ""
        others = ", ".join(str(file.relative_to(self.path)) for file in files[1:])
        return f"{part.name}: {files[0].name}, the nearest to the published weights; these fit, too: {others}."

    def check(self, variants: Iterable[str], *, offline: bool = False) -> None:
        """As in the base class; only tokenizers may still have to be downloaded."""
        lacking = []
        for part in parts_for(variants):
            _, problems = self.inspect(part)
            if not problems:
                continue
            if self._place(part) or part.size >= SMALL:
                raise self._error(part, problems[0])
            lacking.append(part)
        if lacking:
            try:
                self._rest.check_parts(lacking, offline=offline)
            except ModelFilesError as error:
                raise self._lacking_small(lacking, error) from error

    def folder(self, part: Part, *, offline: bool = False, on_progress: OnProgress | None = None) -> Path:
        """Where `part` is: a file of weights or a folder, a small one downloaded if need be; raises ModelFilesError."""
        place, problems = self.inspect(part)
        if place is not None and not problems:
            return place
        if self._place(part) or part.size >= SMALL:
            raise self._error(part, problems[0])
        try:
            return self._rest.folder(part, offline=offline, on_progress=on_progress)
        except ModelFilesError as error:
            raise self._lacking_small([part], error) from error

    def _place(self, part: Part) -> Path | None:
        """Where a part is: named, recognised, or in the folder of its repository; None for one from the cache."""
        published = self.path / part.repository / part.folder
        if part.name in self.places or published.is_dir():
            return self.places.get(part.name, published)
        return PUBLISHED / part.name if part is parts.FEATURE_EXTRACTOR else None

    def _error(self, part: Part, problem: Problem) -> ModelFilesError:
        place = self._place(part)
        if place is not None:
            file = place.parent / problem.file if place.is_file() else place / problem.file
            text = Message("{file} ({part}) {problem}.", file=file, part=part.title, problem=problem.text)
            return ModelFilesError(join_sentences([text, _NAME_ANOTHER]))
        text = Message("{folder} has no file of {part}.", folder=self.path, part=part.title)
        bad = next((file for file in self._found.unreadable if self._is_where(part, file)), None)
        sentences: list[str] = [text]
        if bad is not None:
            sentences.append(Message("{file} {problem}.", file=bad, problem=self._found.unreadable[bad]))
        where = "/".join(FOLDERS.get(part.name, ("",))[:1])
        sentences.append(
            Message(
                'Put one into {folder}, or name it in {file}: {{"parts": {{"{name}": "FILE"}}}}.',
                folder=self.path / where,
                file=self.path / "framepack.json",
                name=part.name,
            )
        )
        return ModelFilesError(join_sentences(sentences))

    def _is_where(self, part: Part, file: Path) -> bool:
        return any((self.path / name) in file.parents for name in FOLDERS.get(part.name, ()))

    def _lacking_small(self, lacking: list[Part], error: ModelFilesError) -> ModelFilesError:
        text = Message(
            "The files in {folder} do not hold {parts}, which are small ({size}) and come from {repository}.",
            folder=self.path,
            parts=", ".join(part.title for part in lacking),
            size=readable_size(sum(part.size for part in lacking)),
            repository=lacking[0].repository,
        )
        return ModelFilesError(join_sentences([text, str(error)]))


_NAME_ANOTHER = Message("Name another file in framepack.json, or put the published one there.")
