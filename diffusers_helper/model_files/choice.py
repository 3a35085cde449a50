"""Which model `--models` means."""

from __future__ import annotations

from pathlib import Path

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files.checksums import ChecksumRecord
from diffusers_helper.model_files.hub import HuggingFaceHub
from diffusers_helper.model_files.hub_source import HubSource
from diffusers_helper.model_files.local_folder import LocalFolder
from diffusers_helper.model_files.parts import parts_for
from diffusers_helper.model_files.revisions import LOCK_FILE, Revisions
from diffusers_helper.model_files.snapshots import cache_at
from diffusers_helper.model_files.source import ModelSource
from diffusers_helper.model_files.weight_files import other_format

TINY_FOLDER = Path(__file__).parents[2] / "assets" / "tiny"


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
