"""Which model `--models` means."""

from __future__ import annotations

from pathlib import Path

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files.checksums import ChecksumRecord
from diffusers_helper.model_files.comfyui import Found, find_parts, models_folder
from diffusers_helper.model_files.hub import HuggingFaceHub
from diffusers_helper.model_files.hub_source import HubSource
from diffusers_helper.model_files.local_folder import LocalFolder
from diffusers_helper.model_files.named_files import NamedFiles
from diffusers_helper.model_files.parts import parts_for
from diffusers_helper.model_files.revisions import LOCK_FILE, Revisions
from diffusers_helper.model_files.settings_file import SETTINGS_FILE, read_settings
from diffusers_helper.model_files.snapshots import cache_at
from diffusers_helper.model_files.source import ModelSource
from diffusers_helper.model_files.weight_files import other_format


def tiny_folder(program: Path) -> Path:
    """Where the tiny model is: in a checkout its own folder, in an installation by pip a package beside the program."""
    checkout = program / "assets" / "tiny"
    return checkout if checkout.is_dir() else program / "framepack_tiny"


TINY_FOLDER = tiny_folder(Path(__file__).parents[2])


def resolve_models(
    choice: str | None, *, accelerator: bool, lock: Path = LOCK_FILE, record: Path | None = None
) -> ModelSource:
    """The source that `--models` names: "framepack", "tiny" or a folder; None is the first two, by `accelerator`.

    A folder may be a Hugging Face cache, as another program's `hf_download` is, which is then read and completed, or
    ComfyUI's, or have a framepack.json that names a file for each part; that file itself may be given, too.
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
    path = path.parent if path.name == SETTINGS_FILE else path
    if path.is_file():
        kind = other_format(path) or Message("a file")
        raise SettingsError(
            Message(
                "{choice} is {kind}, and a model has several parts. Choose framepack, tiny, or a folder: one with the "
                "published files, ComfyUI's models, or one whose framepack.json names a file for each part.",
                choice=choice,
                kind=kind,
            )
        )
    if not path.is_dir():
        raise SettingsError(
            Message("There is no model folder {choice}. Choose framepack, tiny, or an existing folder.", choice=choice)
        )
    return _in_folder(path, lock)


def _in_folder(path: Path, lock: Path) -> ModelSource:
    published = any((path / part.repository).is_dir() for part in parts_for(VARIANTS))
    models = None if published else models_folder(path)
    settings = read_settings(models or path)
    if models or settings.parts:
        found = find_parts(models) if models else Found()
        return NamedFiles(models or path, settings, found, HubSource(lock=lock))
    cache = None if published or (path / SETTINGS_FILE).is_file() else cache_at(path)
    return HubSource(HuggingFaceHub(cache, revisions=Revisions(lock))) if cache else LocalFolder(path)
