"""What the page and the command line have in common: options, environment, exit codes. No heavy import happens here."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from diffusers_helper.core.errors import CancelledError, FramePackError, ModelFilesError, PhotoError, SettingsError
from diffusers_helper.core.files import output_error
from diffusers_helper.core.messages import LANGUAGES, language
from diffusers_helper.media.names import DEFAULT_TEMPLATE, FIELDS
from diffusers_helper.service.logs import LEVELS
from diffusers_helper.service.places import ChooseFolder, Folders, folder_name
from diffusers_helper.service.proxies import settle_proxies

DONE, FAILED, WRONG_SETTINGS, MODELS_MISSING, INTERRUPTED, READER_GONE = 0, 1, 2, 3, 130, 141
"""Every exit code there is; docs/deploy.md tells what each one means and what follows. The last is SIGPIPE's."""
FINAL = (DONE, WRONG_SETTINGS, MODELS_MISSING)
"""What the page ends with where it would do the same again, so that nobody should start it once more."""
_EXIT_CODES = {
    SettingsError: WRONG_SETTINGS,
    PhotoError: WRONG_SETTINGS,
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
    group = parser.add_argument_group("models and machine")
    group.add_argument(
        "--models",
        metavar="NAME",
        help="framepack (the published weights), tiny (comes along, runs on any computer), or a folder; "
        "without it framepack where there is a GPU, else tiny",
    )
    group.add_argument("--offline", action="store_true", help="use what is on the disk, never a network")
    group.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    group.add_argument(
        "--weights",
        choices=("exact", "fp8"),
        default="exact",
        help="fp8: the transformer in 8 bits, half the RAM and the transfers; an approximation, made once, in --cache",
    )
    group.add_argument("--attention", metavar="NAME", default="auto", help="auto, cudnn, sdpa, sage, flash or xformers")
    group.add_argument(
        "--no-compile", action="store_true", help="compile no kernels for the GPU: slower steps, no wait"
    )
    place: dict[str, Any] = {"metavar": "DIR", "type": folder_name, "action": ChooseFolder}
    group.add_argument("--outputs", **place, help="where results go")
    group.add_argument("--cache", **place, help="where work that can be done again is kept")
    add_data(parser)
    add_shared_files(group)
    group.add_argument(
        "--no-embedding-cache", action="store_true", help="keep nothing that the encoders read from prompts and photos"
    )
    add_language(group)
    group.add_argument(
        "--name-template",
        metavar="TEXT",
        help=f"what results are called, of {', '.join(f'{{{name}}}' for name in FIELDS)} ({DEFAULT_TEMPLATE}); "
        "a number is added where a name is taken",
    )
    group.add_argument(
        "--no-metadata", action="store_true", help="pictures and videos do not carry the prompt and the other settings"
    )
    group.add_argument("--log-level", choices=LEVELS, default=None, help="how much the log tells")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the option that moves everything."""
    text = "where all that is written goes: results, uploads, logs, weights (beside the program, or XDG_STATE_HOME)"
    parser.add_argument("--data", metavar="DIR", type=folder_name, action=ChooseFolder, help=text)
    parser.set_defaults(folders=Folders.chosen())


def add_shared_files(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the option that lets other accounts of the computer read what is written."""
    text = "other accounts of this computer may read results and logs; without it only the one that runs this"
    parser.add_argument("--shared-files", action="store_true", help=text)


def add_language(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the option that chooses a language."""
    text = "of what is said here (English) and of the page (without it that of each visitor's browser)"
    parser.add_argument("--language", choices=LANGUAGES, help=text)


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
    }
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def ending(command: Callable[[], int], tag: str | None = None) -> int:
    """Return the exit code of ``command``; what it raises becomes a sentence on stderr, or a traceback in the log.

    ``tag`` is what ``--language`` says. Where the reader of the output has left (``| head -1``) nothing is said.
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
