"""The types of a process's settings: how options, variables and files write them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from diffusers_helper.core.messages import LANGUAGES, Message
from diffusers_helper.service.logs import LEVELS
from diffusers_helper.service.places import folder_name


def folder_of(value: Any) -> Any:
    """Return the folder that a text names; raises ValueError."""
    try:
        return folder_name(os.fspath(value)) if isinstance(value, str | os.PathLike) else value
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from None


def _names(value: Any) -> Any:
    """Return the words of a list with commas."""
    return [name for name in map(str.strip, value.split(",")) if name] if isinstance(value, str) else value


def paths_of(value: Any) -> Any:
    """Return the folders of a list as PATH has them, or of one alone."""
    if isinstance(value, os.PathLike):
        return [value]
    return [name for name in value.split(os.pathsep) if name] if isinstance(value, str) else value


def _web_address(value: str) -> str:
    """Return an address on the web; raises ValueError for anything else."""
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets, or a port that is no number
        known = False
    if not known:
        raise ValueError(Message("should be an address that begins with http:// or https://"))
    return value


def _is_number(text: Any) -> bool:
    return isinstance(text, str) and (word := text.strip()).isascii() and word.isdecimal() and len(word) < 5


def _gpus(value: Any) -> Any:
    """Return the numbers of a list with commas; raises ValueError."""
    numbers = value.split(",") if isinstance(value, str) else value
    given = tuple(numbers) if isinstance(numbers, Iterable) else ()
    found = tuple(map(int, given)) if all(type(number) is int or _is_number(number) for number in given) else ()
    if len(found) < 2 or len(set(found)) < len(found) or min(found) < 0:
        raise ValueError(Message("give two or more GPUs by their numbers, each once, such as 0,1"))
    return found


Folder = Annotated[Path, BeforeValidator(folder_of)]
FolderList = Annotated[tuple[Folder, ...], NoDecode, BeforeValidator(paths_of)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]
Gpus = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_gpus)]
if TYPE_CHECKING:
    Tag = str
    Level = str
else:
    Tag, Level = Literal[*LANGUAGES], Literal[*LEVELS]
