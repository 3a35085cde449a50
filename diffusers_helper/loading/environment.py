"""What the numbers of a video depend on besides its request, as words; two that differ may give different bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata

import torch

from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.core.numerics import NUMERICS_VERSION
from diffusers_helper.loading.building import attention_head_dim
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.embedding_cache import key_of
from diffusers_helper.model_files import ModelSource, Part, parts_for, transformer_part
from diffusers_helper.model_files.contents import EXACT, FP8, ROUNDED, form_of
from diffusers_helper.models.attention import expected_attention

LIBRARIES = ("torch", "diffusers", "transformers", "av")
_UNLESS_NAMED = {"numerics": "1", "stagger": "none", "gpus": "1", "linear layers": EXACT, "attention bits": "16"}
"""What videos depend on whose environment does not name it."""

OF_DEVICE = frozenset({"device", "threads", "precision", "attention", "linear layers", "attention bits"})
"""What only a process that has the device can tell."""


def environment(
    source: ModelSource, variants: Sequence[str], device: torch.device, **choices: object
) -> dict[str, str]:
    """Return the environment of a video, by name.

    Args:
        source: where the models' files are.
        variants: whose transformers sample it.
        device: where it is sampled.
        choices: what else was chosen: dtype, attention backend and the like.
    """
    found = {library: version(library) for library in LIBRARIES}
    found["device"] = device_name(device)
    if device.type == "cpu":
        found["threads"] = str(torch.get_num_threads())  # sums are cut differently
    return found | {
        **{name: str(choice) for name, choice in choices.items()},
        "numerics": str(NUMERICS_VERSION),
        "models": _digest(repr(_identities(source, variants)).encode()),
    }


@cache
def version(library: str) -> str:
    """Return an installed library's version, which is read once: parsing what came with it takes 10 ms."""
    return metadata.version(library)


class Environment:
    """What the numbers that models of `source` make here depend on.

    Args:
        source: where the models' files are.
        device: where they compute.
        options: how they do.
    """

    def __init__(self, source: ModelSource, device: torch.device, options: ComputeOptions) -> None:
        self._source = source
        self._device = device
        self._options = options

    def of_video(self, *variants: str) -> dict[str, str]:
        """What the bits of a video by models of `variants` depend on besides its request; by name, as words."""
        options = self._options
        choices: dict[str, object] = {
            "precision": options.dtype_on(self._device, transformer=True),
            "attention": self._attention(variants),
            "fused kernels": options.fused,
            "weights": self._stored_as(variants),
            "stagger": options.stagger or "none",
            "gpus": options.gpus,
        }
        if options.linears != EXACT:
            choices["linear layers"] = options.linears
        return environment(self._source, variants, self._device, **choices)

    def embedding_key(self, wanted: Iterable[Part], *facts: object) -> str | None:
        """The cache's name for what `wanted` make of an input with these `facts`; None while files are lacking.

        It changes with the files, the dtype, the device's kind and the libraries: all that may shape a number.
        """
        identities = []
        for part in wanted:
            folder, problems = self._source.inspect(part)
            if folder is None or problems:
                return None
            identities.append(part.identity_in(folder))
        versions = [version(name) for name in ("torch", "transformers")]
        dtype = self._options.dtype_on(self._device, transformer=False)
        return key_of(identities, versions, device_name(self._device), str(dtype), *facts)

    def _attention(self, variants: Sequence[str]) -> str:
        """The backend, as far as it is not torch's own: one that is installed later gives other bits."""
        dtype = self._options.dtype_on(self._device, transformer=True)
        places = [(part, self._source.inspect(part)[0]) for part in map(transformer_part, variants)]
        sizes = [attention_head_dim(part, place) for part, place in places if place is not None]
        return expected_attention(self._options.attention, self._device, dtype, *sizes[:1])

    def _stored_as(self, variants: Sequence[str]) -> str:
        found = [(part, *self._source.inspect(part)) for part in map(transformer_part, variants)]
        forms = {form_of(part, place) for part, place, problems in found if place is not None and not problems}
        return ", ".join(sorted(map(self._in_words, forms or {EXACT})))

    def _in_words(self, form: str) -> str:
        if form in (EXACT, ROUNDED) and self._options.fp8:
            return "8 bits"
        return f"{form} files" if form == FP8 else form


def device_name(device: torch.device) -> str:
    """Return what a device is called: a card by its model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return a sentence on what is different now; empty if nothing is, or if there is no `before`."""
    if not before:
        return ""
    before, now = _UNLESS_NAMED | dict(before), _UNLESS_NAMED | dict(now)
    changed = [name for name in now if before.get(name) != now[name]]
    plain = {
        "numerics": Message("this program's numbers"),
        "models": Message("the model's files"),
        "calibration": Message("the calibration of the model's steps"),
    }
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
    return join_sentences(
        [*sentences, Message("The rest of the video may not match exactly what the first part led to.")]
    )


def _identities(source: ModelSource, variants: Sequence[str]) -> list[object]:
    found: list[object] = []
    for part in parts_for(variants):
        folder, _problems = source.inspect(part)
        found.append((part.name, part.identity_in(folder) if folder else None))
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content + b"\0").hexdigest()[:16]
