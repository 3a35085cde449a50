"""Where a model comes from: the public checkpoints in the Hugging Face cache, or a folder in the same layout."""

from __future__ import annotations

import json
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

from diffusers_helper.core.errors import ModelFilesError, SettingsError
from diffusers_helper.core.messages import Message, in_turn
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files.check import Fault, Problem, find_problems, intact_bytes, other_format
from diffusers_helper.model_files.checksums import ChecksumRecord, Report, find_changed
from diffusers_helper.model_files.hub import HubError, HuggingFaceHub
from diffusers_helper.model_files.parts import Part, parts_for
from diffusers_helper.model_files.revisions import LOCK_FILE, Revisions
from diffusers_helper.model_files.snapshots import cache_at

TINY_FOLDER = Path(__file__).parents[2] / "assets" / "tiny"
SUMS_FILE = "SHA256SUMS"
OnProgress = Callable[[str, int, int], None]
"""Gets a part's title, the bytes of it that are here, and its bytes in all; may raise to stop a download."""
_OFFLINE = Message("Going online is switched off.")


class ModelSource(ABC):
    """A model's files.

    Attributes:
        title: name of the model, for people.
        trained: whether its pictures show something; random weights give noise.
        is_tiny: whether it is the small one that ships with the repository.
        defaults: a request with the resolution (never None), steps and guidance scale that suit it.
        record: which files were compared with their checksums.
    """

    title = "FramePack"
    trained = True
    is_tiny = False
    defaults = GenerationRequest(resolution=640)
    record = ChecksumRecord(None)

    @property
    def note(self) -> str:
        """A sentence about the model that a user must see; empty for none."""
        noise = [] if self.trained else [Message("Its weights are random, so its pictures are noise.")]
        if not self.is_tiny:
            return in_turn(noise)
        advice = Message("For real videos: --models framepack, on a computer with a GPU.")
        return in_turn(
            [Message("The tiny model is at work: it moves the camera and changes the light."), *noise, advice]
        )

    @property
    @abstractmethod
    def root(self) -> Path:
        """The folder below which the files are, or will be."""

    @abstractmethod
    def look(self, part: Part) -> tuple[Path | None, list[Problem]]:
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

    @abstractmethod
    def folder(self, part: Part, *, offline: bool = False, on_progress: OnProgress | None = None) -> Path:
        """The folder with the complete files of `part`, downloaded if they must be; raises ModelFilesError."""


class LocalFolder(ModelSource):
    """A folder that holds the repositories by their ids.

    `framepack.json` in it, if there is one, gives its title, whether it is trained, its default settings, and as
    `same_files` the repositories whose files are another's there: `{"its id": "the other's id"}`.
    """

    def __init__(self, path: Path, *, is_tiny: bool = False) -> None:
        self.path = path
        self.is_tiny = is_tiny
        self.title = path.name
        self.same_files: dict[str, str] = {}
        if (path / "framepack.json").is_file():
            self._read_settings(path / "framepack.json")

    @property
    def root(self) -> Path:
        """The folder itself."""
        return self.path

    def look(self, part: Part) -> tuple[Path | None, list[Problem]]:
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
            command = Message("Fetch it with: {command}", command=_commands([part], where))
            advice = [_room(lacking, self.path), command]
        else:
            advice = [Message("Put the files of {repository} there instead.", repository=part.repository)]
        raise ModelFilesError(in_turn([text, *advice]))

    def _read_settings(self, file: Path) -> None:
        try:
            content = json.loads(file.read_bytes())
            self.title = str(content.pop("title", self.title))
            self.trained = bool(content.pop("trained", True))
            self.same_files = {str(name): str(other) for name, other in content.pop("same_files", {}).items()}
            self.defaults = GenerationRequest.from_fields({"resolution": 640} | content)
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ModelFilesError(
                Message("{file} cannot be used: {reason} Correct it or delete it.", file=file, reason=str(error))
            ) from None


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
        lacking = {}
        for part in parts_for(variants):
            _folder, problems = self.look(part)
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
                in_turn(
                    [
                        *_lacking_texts(lacking),
                        _room(need, self.hub.cache_dir),
                        Message("Make room there, or set HF_HOME to a folder on a larger disk."),
                    ]
                )
            )

    def folder(self, part: Part, *, offline: bool = False, on_progress: OnProgress | None = None) -> Path:
        """The folder of `part` in the cache, downloaded or completed first where needed; raises ModelFilesError."""
        folder, problems = self.look(part)
        if folder is not None and not problems:
            return folder
        if offline or self.hub.offline:
            raise self._unavailable({part: problems}, _OFFLINE)
        try:
            return self._fetch(part, problems, on_progress)
        except HubError as error:
            raise self._unavailable({part: problems}, str(error)) from error

    def look(self, part: Part) -> tuple[Path | None, list[Problem]]:
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
                in_turn([left[0].sentence(part), Message("It was downloaded again already. Try again later.")])
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
        where = f"--cache-dir {shlex.quote(str(self.hub.cache_dir))}"
        return ModelFilesError(
            in_turn(
                [
                    *_lacking_texts(lacking),
                    reason,
                    _room(need, self.hub.cache_dir),
                    Message("Fetch the files where there is a network: {command}", command=_commands(lacking, where)),
                ]
            )
        )


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 sums by path below `folder`, from its SHA256SUMS; empty without one."""
    file = folder / SUMS_FILE
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    except OSError:  # it only says what could be compared
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def resolve_models(
    choice: str | None, *, accelerator: bool, lock: Path = LOCK_FILE, record: Path | None = None
) -> ModelSource:
    """The source that `--models` names: "framepack", "tiny" or a folder; None is the first two, by `accelerator`.

    A folder may be a Hugging Face cache, as another program's `hf_download` is, which is then read and completed.
    `lock` is the file with the commits of the public repositories. `record` is the file that says which files were
    compared with their checksums; None compares them every time.

    Raises SettingsError when there is no such folder, ModelFilesError when its framepack.json is no good.
    """
    source = _source(choice or ("framepack" if accelerator else "tiny"), lock)
    source.record = ChecksumRecord(record)
    return source


def _source(choice: str, lock: Path) -> ModelSource:
    if choice == "framepack":
        return HubSource(lock=lock)
    if choice == "tiny":
        return LocalFolder(TINY_FOLDER, is_tiny=True)
    path = Path(choice).expanduser().resolve()
    if path.is_file():
        kind = other_format(path) or Message("a file")
        raise SettingsError(
            Message(
                "{choice} is {kind}, which is not read. Choose framepack, tiny, or a folder with the published files.",
                choice=choice,
                kind=kind,
            )
        )
    if not path.is_dir():
        raise SettingsError(
            Message("There is no model folder {choice}. Choose framepack, tiny, or an existing folder.", choice=choice)
        )
    cache = None if _is_model_folder(path) else cache_at(path)
    return HubSource(HuggingFaceHub(cache, revisions=Revisions(lock))) if cache else LocalFolder(path)


def _is_model_folder(path: Path) -> bool:
    return (path / "framepack.json").is_file() or any((path / part.repository).is_dir() for part in parts_for(VARIANTS))


def _lacking_texts(lacking: dict[Part, list[Problem]]) -> list[Message]:
    part, problems = next(iter(lacking.items()))
    others = len(lacking) - 1
    texts = [problems[0].sentence(part)]
    if others == 1:
        texts.append(Message("Files of one more part are not in order either."))
    elif others:
        texts.append(Message("Files of {number} more parts are not in order either.", number=others))
    return texts


def _room(need: int, where: Path) -> Message:
    sizes = {"need": readable_size(need), "free": readable_size(free_bytes(where))}
    return Message("Still to download: {need}; free in {where}: {free}.", where=where, **sizes)


def free_bytes(where: Path) -> int:
    """Free bytes on the disk of `where`, which need not exist yet."""
    return shutil.disk_usage(
        next(folder for folder in (where.absolute(), *where.absolute().parents) if folder.exists())
    ).free


def readable_size(size: int) -> str:
    """`size` in bytes as people write it."""
    scale, unit = _unit(size)
    return f"{size / scale:.1f} {unit}"


def readable_progress(done: int, total: int) -> dict[str, str]:
    """Two sizes in bytes, in the unit of the larger one, for a Message with "{done} of {total}"."""
    return {"done": f"{done / _unit(total)[0]:.1f}", "total": readable_size(total)}


def _unit(size: int) -> tuple[float, str]:
    return (1e9, "GB") if size >= 1e8 else (1e6, "MB")


def _commands(parts: Iterable[Part], where: str) -> str:
    """The shell commands that fetch `parts`; `where` is the option that says where to."""
    patterns: dict[str, list[str]] = {}
    for part in parts:
        patterns.setdefault(part.repository, []).append(f"{part.folder}/*" if part.folder else "*")
    return " && ".join(
        f"hf download {repository} {' '.join(f'--include {shlex.quote(name)}' for name in names)} {where}"
        for repository, names in patterns.items()
    )
