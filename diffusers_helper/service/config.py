"""The settings of one process: `RuntimeConfig`, and the sources it is made from.

Each setting is a field, declared here alone: its name is that of the option (`--name-template`; `--loras` alone is
another), of the variable (`FRAMEPACK_NAME_TEMPLATE`), of the key in `framepack.toml` (`name_template`) and of the
argument of `FramePack.load`; its description is the text of `--help`. docs/configuration.md tells users the same. No
torch, no Gradio.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.fields import Whole
from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.core.validation import reason_of
from diffusers_helper.media.names import DEFAULT_TEMPLATE, FIELDS
from diffusers_helper.service.places import Folders
from diffusers_helper.service.setting_types import (
    Folder,
    FolderList,
    Gpus,
    Level,
    Names,
    Tag,
    WebAddress,
    folder_of,
    paths_of,
)

PREFIX = "FRAMEPACK_"
FILE = "framepack.toml"
"""In the folder of `--data`."""
_OTHER_VARIABLES = {"FRAMEPACK_TORCH", "FRAMEPACK_PROGRAM", "FRAMEPACK_REPLACED"}
"""Variables of the set-up and of the supervisor."""

logger = logging.getLogger(__name__)


def _setting(default: Any, group: str, text: str, metavar: str = "NAME", option: str = "", **limits: Any) -> Any:
    details: dict[str, Any] = {"group": group, "metavar": metavar, "option": option}
    return Field(default, description=text, json_schema_extra=details, **limits)


class RuntimeConfig(BaseSettings):
    """What was chosen for one process. Sources, in the order in which they count:

    1. what `load` is given: the options of the command line, or the arguments of `FramePack.load`,
    2. variables of the environment, `FRAMEPACK_*`; an empty one does not count,
    3. the file `framepack.toml` in the folder of data; folders in it start there,
    4. the defaults below.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, env_ignore_empty=True)

    server: str = _setting("127.0.0.1", "page", "0.0.0.0 for the whole network; see access (127.0.0.1)", "ADDRESS")
    port: Whole = _setting(7860, "page", "of the page; 0 for any free one (7860)", "PORT", ge=0, le=65535)
    inbrowser: bool = _setting(False, "page", "open the page in a browser")
    preload: bool = _setting(True, "page", "load the models before the first video (yes)")
    notify_url: WebAddress | None = _setting(
        None,
        "page",
        "tell this address when a video is done or failed: a webhook, or a topic of ntfy; no prompts are sent",
        "URL",
    )
    notify_form: Literal["auto", "json", "ntfy"] = _setting(
        "auto", "page", "how that address is told; auto: ntfy where the host is called so, else JSON (auto)"
    )

    auth: Folder | None = _setting(None, "access", "users must sign in: a file of NAME:HASH lines", "FILE")
    allow_anonymous: bool = _setting(False, "access", "whoever reaches the server may use it")
    session_hours: float = _setting(
        12, "access", "how long users stay signed in, hours (12)", "N", gt=0, le=8760, allow_inf_nan=False
    )
    share: bool = _setting(False, "access", "make a public link through Gradio's servers")
    host_name: Names = _setting(
        (), "access", "a name by which browsers reach this server, for example behind a proxy; may be given repeatedly"
    )
    max_upload: Whole = _setting(100, "access", "largest upload, MB (100)", "MB", ge=1)
    root_path: str = _setting("", "access", "where a proxy shows the page: /framepack", "PATH")
    forwarded_allow_ips: str = _setting(
        "127.0.0.1,::1",
        "access",
        "addresses of proxies whose X-Forwarded headers are believed (127.0.0.1,::1)",
        "LIST",
    )

    models: str | None = _setting(
        None,
        "machine",
        "framepack (the published weights), tiny (comes along, runs on any computer), or a folder; "
        "without it framepack where there is a GPU, else tiny",
    )
    offline: bool = _setting(False, "machine", "use what is on the disk, never a network")
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = _setting("auto", "machine", "where the models run (auto)")
    weights: Literal["exact", "fp8"] = _setting(
        "exact",
        "machine",
        "fp8: the transformer in 8 bits, half the RAM and the transfers; an approximation, made once, in --cache",
    )
    attention: str = _setting(
        "auto", "machine", "auto, fa3, cudnn, sdpa, fa3-fp8, triton-int8, sage, sage3, flash or xformers"
    )
    compile: bool = _setting(True, "machine", "compile kernels for the GPU (yes); without: slower steps, no wait")
    gpus: Gpus | None = _setting(None, "machine", "GPUs that make each video together, by their numbers: 0,1", "LIST")
    parallel: Literal["auto", "ulysses", "stagger", "jobs"] = _setting(
        "auto",
        "machine",
        "how they do: ulysses shares every step and needs fast links between them, stagger shares the sections and "
        "needs none; auto measures the links; with jobs each makes a video of its own from one queue (auto)",
    )
    stagger: Whole | None = _setting(
        None,
        "machine",
        "begin a section once the one that it reads has done M steps, and read that as it is by then, so that several "
        "GPUs can work on one video: an approximation, unless M is a video's steps or more",
        "M",
        ge=1,
        le=100,
    )
    start_from: str | None = _setting(
        None,
        "machine",
        "a text-to-image model that makes the first picture of a video without a photo: a folder or a repository, as "
        "diffusers has them",
        "MODEL",
    )
    preview_decoder: Folder | None = _setting(
        None,
        "machine",
        "a small decoder for sharper previews, safetensors of TAEHV (that of the models' folder, if it has one)",
        "FILE",
    )
    lora_folders: FolderList = _setting(  # an option of another name: a request's `loras` are the files themselves
        (),
        "machine",
        "where LoRA files are, sub-folders too, such as ComfyUI's models/loras; may be given repeatedly (loras, beside "
        "the results)",
        "DIR",
        option="--loras",
    )
    outputs: Folder | None = _setting(None, "machine", "where results go", "DIR")
    cache: Folder | None = _setting(None, "machine", "where work that can be done again is kept", "DIR")
    data: Folder | None = _setting(
        None,
        "machine",
        "where all that is written goes: results, uploads, logs, weights (beside the program, or XDG_STATE_HOME), and "
        f"where {FILE} is read: defaults of these options",
        "DIR",
    )
    shared_files: bool = _setting(
        False,
        "machine",
        "other accounts of this computer may read results and logs; without it only the one that runs this",
    )
    embedding_cache: bool = _setting(
        True, "machine", "keep what the encoders read from prompts and photos, in --cache (yes)"
    )
    language: Tag | None = _setting(
        None, "machine", "of what is said here (English) and of the page (without it that of each visitor's browser)"
    )
    name_template: str | None = _setting(
        None,
        "machine",
        f"what results are called, of {', '.join(f'{{{name}}}' for name in FIELDS)} ({DEFAULT_TEMPLATE}); "
        "a number is added where a name is taken",
        "TEXT",
    )
    metadata: bool = _setting(True, "machine", "pictures and videos carry the prompt and the other settings (yes)")
    log_level: Level | None = _setting(None, "machine", "how much the log tells")

    _given: frozenset[str] = PrivateAttr(frozenset())

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Return the settings that `given` and the other sources make; what is None was not given.

        Raises SettingsError with one sentence for each value at fault, which names the field and its source.
        """
        given = {name: value for name, value in given.items() if value is not None}
        try:
            config = cls(**given)
        except ValidationError as error:
            file = settings_file(given.get("data"))
            raise SettingsError(join_sentences(_sentence(entry, given, file) for entry in error.errors())) from None
        config._given = frozenset(given)
        known = {variable_of(name) for name in cls.model_fields} | _OTHER_VARIABLES
        for name in sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
            logger.warning("The variable %s is no setting of FramePack, so nothing is done with it", name)
        return config

    @cached_property
    def folders(self) -> Folders:
        """Where everything is that is written."""
        return Folders.chosen(self.data, self.outputs, self.cache, self.lora_folders)

    @contextmanager
    def naming_source(self, name: str) -> Iterator[None]:
        """Let a SettingsError inside say where the value of `name` is from, unless the user has just given it."""
        try:
            yield
        except SettingsError as error:
            if name in self._given or name not in self.model_fields_set:
                raise
            source = _source(name, self._given, settings_file(self.data))
            raise SettingsError(
                join_sentences([str(error), Message("The value comes from {source}.", source=source)])
            ) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in their order, for pydantic-settings."""
        file = settings_file(init_settings().get("data"))
        return (init_settings, env_settings, *([_SettingsFile(settings_cls, file)] if file else []))


class _SettingsFile(TomlConfigSettingsSource):
    """`framepack.toml`. Raises SettingsError if it cannot be read, or moves the folder in which it is."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        try:
            super().__init__(settings_cls, path)
        except (OSError, ValueError) as error:  # ValueErrors: no TOML, no UTF-8
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise SettingsError(Message("{file} cannot be read: {reason}.", file=path, reason=reason)) from None
        if "data" in self.init_kwargs:
            reason = Message("this file is in that folder, so choose it with --data or FRAMEPACK_DATA")
            raise SettingsError(Message("{field}: {reason}.", field=f"{path}, data", reason=reason))
        for name in ("outputs", "cache", "auth", "preview_decoder"):
            if isinstance(value := self.init_kwargs.get(name), str):
                self.init_kwargs[name] = _from(path.parent, value)
        if isinstance(several := paths_of(self.init_kwargs.get("lora_folders")), list):
            folders = [_from(path.parent, one) if isinstance(one, str) else one for one in several]
            self.init_kwargs["lora_folders"] = folders


def _from(folder: Path, name: str) -> str:
    """Return the folder that a name in a file means: from where the file is."""
    return os.path.join(folder, os.path.expanduser(name))


def settings_file(data: str | os.PathLike[str] | None = None) -> Path | None:
    """Return where the file with settings is looked for; `data` is the folder that was given.

    None if the folder cannot be one, which the check of the settings then tells.
    """
    try:
        return Folders.chosen(folder_of(data or os.environ.get(variable_of("data")) or None)).data / FILE
    except ValueError:
        return None


def variable_of(name: str) -> str:
    """Return the variable of a setting."""
    return PREFIX + name.upper()


def option_of(name: str) -> str:
    """Return the option of a setting."""
    return details_of(name)["option"] or f"--{name.replace('_', '-')}"


def names_of(group: str) -> list[str]:
    """Return the settings of a group, `page`, `access` or `machine`, in their order."""
    return [name for name in RuntimeConfig.model_fields if details_of(name)["group"] == group]


def details_of(name: str) -> dict[str, Any]:
    """Return the group of a setting, the word that stands for its value in `--help`, and an option of another name."""
    details = RuntimeConfig.model_fields[name].json_schema_extra
    assert isinstance(details, dict), "every setting is made by _setting"
    return details


def _source(name: str, given: Sequence[str] | frozenset[str] | dict[str, Any], file: Path | None) -> str:
    if name in given:
        return option_of(name)
    return variable_of(name) if os.environ.get(variable_of(name)) else f"{file}, {name}"


def _sentence(entry: Any, given: dict[str, Any], file: Path | None) -> Message:
    name = str(entry["loc"][0])
    return Message("{field}: {reason}.", field=_source(name, given, file), reason=problem_of(entry))


def problem_of(entry: Any) -> str:
    """Return what is wrong with a value, by one of pydantic's errors about it."""
    return str(entry["ctx"]["error"]) if entry["type"] == "value_error" else reason_of(entry)
