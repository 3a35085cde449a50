"""What the page and the command line have in common: options, environment, exit codes. No heavy import happens here."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from diffusers_helper.core.errors import (
    CancelledError,
    ClipError,
    FramePackError,
    LoraError,
    ModelFilesError,
    PhotoError,
    SettingsError,
)
from diffusers_helper.core.files import output_error
from diffusers_helper.core.messages import language
from diffusers_helper.service.config import RuntimeConfig, details_of, names_of, option_of, problem_of
from diffusers_helper.service.places import Folders
from diffusers_helper.service.proxies import settle_proxies

DONE, FAILED, WRONG_SETTINGS, MODELS_MISSING, INTERRUPTED, READER_GONE = 0, 1, 2, 3, 130, 141
"""Every exit code there is; docs/deploy.md tells what each one means and what follows. The last is SIGPIPE's."""
FINAL = (DONE, WRONG_SETTINGS, MODELS_MISSING)
"""What the page ends with where it would do the same again, so that nobody should start it once more."""
_EXIT_CODES = {
    SettingsError: WRONG_SETTINGS,
    PhotoError: WRONG_SETTINGS,
    ClipError: WRONG_SETTINGS,
    LoraError: WRONG_SETTINGS,
    ModelFilesError: MODELS_MISSING,
    CancelledError: INTERRUPTED,
}

_REFUSED = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "EEXIST", "ELOOP", "ENOSPC", "EDQUOT")
}
"""What the system says of a place that cannot be written: no fault of the program."""

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about models and the machine."""
    add_settings(parser.add_argument_group("models and machine"), names_of("machine"))


def add_settings(parser: argparse.ArgumentParser | argparse._ArgumentGroup, names: Iterable[str]) -> None:
    """Add the options of some fields of RuntimeConfig; what is not given leaves no trace in the result."""
    for name in names:
        field = RuntimeConfig.model_fields[name]
        how: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": field.description}
        choices = [value for kind in (field.annotation, *get_args(field.annotation)) for value in _literals(kind)]
        if field.annotation is bool:
            how["action"] = argparse.BooleanOptionalAction
        elif choices:
            how["choices"] = choices
        else:
            several = isinstance(field.default, tuple)
            how |= {"metavar": details_of(name)["metavar"], "action": "append" if several else "store"}
            how |= {} if several else {"type": partial(_value, field)}
        parser.add_argument(option_of(name), **how)


def config_of(parsed: argparse.Namespace) -> RuntimeConfig:
    """Return the settings that the options in `parsed` and the other sources make; raises SettingsError."""
    return RuntimeConfig.load(
        **{name: value for name, value in vars(parsed).items() if name in RuntimeConfig.model_fields}
    )


def _literals(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _value(field: FieldInfo, text: str) -> Any:
    """Return what an option's text means; raises ArgumentTypeError, which argparse tells with the option's name."""
    try:
        kind: Any = Annotated[field.annotation, field]
        return TypeAdapter(kind).validate_python(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(problem_of(error.errors()[0])) from None


_AOTRITON = "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"


def set_environment(folders: Folders, *, offline: bool) -> None:
    """Tell the libraries where weights are and to keep quiet; they read this once, when they are imported."""
    os.environ["HF_HOME"] = os.environ.get("HF_HOME") or str(folders.weights)
    os.environ |= settle_proxies(os.environ)
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000",  # or every call warns about the queue's statistics
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # Over 32 MB the C library gives each block back to the system; what a photo took would otherwise stay.
        "PILLOW_BLOCK_SIZE": os.environ.get("PILLOW_BLOCK_SIZE") or "64m",
        # Without it AMD's RDNA cards get attention by a matrix of all scores; other devices do not read it.
        _AOTRITON: os.environ.get(_AOTRITON) or "1",
    }
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def ending(command: Callable[[], int], tag: str | None = None) -> int:
    """Return the exit code of `command`; what it raises becomes a sentence on stderr, or a traceback in the log.

    `tag` is what `--language` says. Where the reader of the output has left (`| head -1`) nothing is said.
    """
    try:
        try:
            return _ending(command, tag)
        finally:
            sys.stdout.flush()  # what waits in the buffer would fail after everything, with a traceback
    except BrokenPipeError:
        _silence()
        return READER_GONE


def _ending(command: Callable[[], int], tag: str | None) -> int:
    try:
        return command()
    except BrokenPipeError:
        raise
    except FramePackError as error:
        sys.stderr.write(f"{language(tag)(str(error))}\n")
        return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.filename is None or error.errno not in _REFUSED:
            logger.exception("Something unexpected went wrong")
            return FAILED
        logger.debug("The system refused", exc_info=error)
        sys.stderr.write(f"{language(tag)(str(output_error(error.filename, error)))}\n")
        return FAILED
    except Exception:
        logger.exception("Something unexpected went wrong")
        return FAILED


def _silence() -> None:
    """Let what is still to be written to a reader who has left go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
