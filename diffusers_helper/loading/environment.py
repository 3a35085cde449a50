"""What the numbers of a video depend on besides its request, as words; two that differ may give different bits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from diffusers_helper.model_files import ModelSource, parts_for
from diffusers_helper.texts import Message, in_turn

LIBRARIES = ("torch", "diffusers", "transformers", "av")
_PACKAGE = Path(__file__).parents[1]
_NUMERIC = ("framepack", "k_diffusion", "media", "memory", "models", "pipelines", "clip_vision.py", "hunyuan.py")
"""The parts of this program that shape numbers."""


def environment(source: ModelSource, variant: str, device: torch.device, **choices: object) -> dict[str, str]:
    """Return the environment of a video of ``variant``, by name.

    Args:
        source: where the models' files are.
        variant: whose transformer.
        device: where it is sampled.
        choices: what else was chosen: dtype, attention backend and the like.
    """
    found = {library: version(library) for library in LIBRARIES}
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if device.type == "cpu":
        found["threads"] = str(torch.get_num_threads())  # sums are cut differently
    return found | {
        **{name: str(choice) for name, choice in choices.items()},
        "program": _program(),
        "models": _digest(repr(_identities(source, variant)).encode()),
    }


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return a sentence on what is different now; empty if nothing is, or if there is no ``before``."""
    changed = [name for name in now if before and before.get(name) != now[name]]
    plain = {"program": Message("this program's code"), "models": Message("the model's files")}
    sentences: list[str] = []
    for name in changed:
        if name in plain:
            sentences.append(Message("Since it was begun, {what} changed.", what=plain[name]))
        else:
            was = before.get(name, "?")
            sentences.append(
                Message("It was begun with {name} {was}; here it is {now}.", name=name, was=was, now=now[name])
            )
    if not sentences:
        return ""
    return in_turn([*sentences, Message("The rest of the video may not match exactly what the first part led to.")])


def _identities(source: ModelSource, variant: str) -> list[object]:
    found: list[object] = []
    for part in parts_for([variant]):
        folder, _problems = source.look(part)
        found.append((part.name, part.identity_in(folder) if folder else None))
    return found


@cache
def _program() -> str:
    paths = (_PACKAGE / name for name in _NUMERIC)
    files = (file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path]))
    return _digest(*_contents(sorted(files)))


def _contents(files: Iterable[Path]) -> Iterable[bytes]:
    for file in files:
        yield os.fsencode(file.relative_to(_PACKAGE))
        yield file.read_bytes()


def _digest(*contents: bytes) -> str:
    found = hashlib.sha256()
    for content in contents:
        found.update(content + b"\0")
    return found.hexdigest()[:16]
