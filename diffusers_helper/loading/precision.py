"""What a video's blocks multiply: the 8-bit numbers that its settings ask for, as far as this device can."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import torch

from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.loading.building import attention_head_dim
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.model_files import ModelSource, transformer_part
from diffusers_helper.models.attention import BACKENDS
from diffusers_helper.models.eight_bit import (
    ATTENTION,
    ATTENTION_SAVED,
    EXACT,
    SAVED,
    attention_for,
    misfit,
    reason_against_attention,
    reason_against_linears,
)
from diffusers_helper.models.kernel_selection import resolve_kernels

PUBLISHED_HEAD_DIM = 128
"""Of models that are not here yet."""


@dataclass(frozen=True)
class Precision:
    """What blocks multiply.

    Attributes:
        linears: numbers of their linear layers, a name in `models.eight_bit.NAMES`; None is what the process has.
        attention: backend that attends in 8 bits, a name in `models.eight_bit.ATTENTION`; None is that of other videos.
        linears_misfit, attention_misfit: why what was asked for is exact here; None where it is as asked.
    """

    linears: str | None = None
    attention: str | None = None
    linears_misfit: str | None = None
    attention_misfit: str | None = None

    @property
    def cost(self) -> float:
        """What a step takes over an exact one, about."""
        return 1 - SAVED.get(self.linears or EXACT, 0) - ATTENTION_SAVED.get(self.attention or "", 0)

    @property
    def environment(self) -> dict[str, str]:
        """What bits depend on by it, by name, as words; nothing where all is exact."""
        linears = {"linear layers": self.linears} if self.linears else {}
        # float8 was the only kind when the first videos were made
        attention = {"fa3-fp8": "8", "triton-int8": "8 (int8)"}
        return linears | ({"attention bits": attention[self.attention]} if self.attention else {})

    @property
    def note(self) -> str:
        """What the user should know: which parts of what was asked for stay exact, and why; empty for nothing."""
        if self.linears_misfit and self.attention_misfit:  # the second asks for more than the first
            return Message("Nothing of this draft is computed in 8 bits here: {reason}.", reason=self.linears_misfit)
        sentences: list[str] = []
        if self.linears_misfit:
            sentences.append(
                Message(
                    "The linear layers of this draft are computed exactly, not in 8 bits: {reason}.",
                    reason=self.linears_misfit,
                )
            )
        if self.attention_misfit:
            sentences.append(
                Message(
                    "The attention of this draft is that of other videos, not in 8 bits: {reason}.",
                    reason=self.attention_misfit,
                )
            )
        return join_sentences(sentences)


class TensorCores:
    """What a device multiplies in 8 bits.

    Args:
        device: whose.
        options: how models compute there; an attention backend that is named there counts before 8-bit attention.
    """

    def __init__(self, device: torch.device, options: ComputeOptions) -> None:
        self._device = device
        self._options = options
        self._dtype = options.dtype_on(device, transformer=True)

    def attention(self, head_dim: int) -> str:
        """Return the backend that attends in 8 bits on such a device, or would if any did."""
        return attention_for(self._device, self._dtype, head_dim)

    def misfit(self, name: str, head_dim: int) -> str | None:
        """Return why linear layers of numbers `name`, or that attention, cannot be used; nothing is run."""
        if name not in ATTENTION:
            return misfit(name, self._device, self._dtype)
        backend = BACKENDS[name]
        if self._options.attention not in ("auto", name):
            return f"it is {self._options.attention}, as --attention says"
        missing = None if backend.is_installed else f"{backend.module} is not installed"
        return backend.constraint(self._device, self._dtype, head_dim) or missing or self._unfused()

    def fault(self, name: str, head_dim: int) -> str | None:
        """Return why small calls of the same fail; None where they are right."""
        if name in ATTENTION:
            return reason_against_attention(name, self._device, self._dtype, head_dim)
        kernels = resolve_kernels(self._device, self._dtype, fused=self._options.fused)
        return reason_against_linears(name, kernels, self._device, self._dtype)

    def _unfused(self) -> str | None:
        return None if self._options.fused else "it takes the fused kernels"


class Precisions:
    """Chooses by settings and device.

    Args:
        source: where the models' files are.
        cores: the device.
    """

    def __init__(self, source: ModelSource, cores: TensorCores) -> None:
        self._source = source
        self._cores = cores
        self._faults: dict[tuple[str, int], str | None] = {}
        self._proving = Lock()

    def expected(self, settings: SamplingSettings, variant: str) -> Precision:
        """Return what a video will be computed with, if small calls that are still to be made succeed."""
        if not settings.linears and settings.attention_bits != 8:
            return Precision()
        head_dim = self._head_dim(variant)
        against = {name: self._against(name, head_dim) for name in settings.linears}
        linears = next((name for name, reason in against.items() if reason is None), None)
        linears_misfit = None if linears else next(reversed(against.values()), None)  # of what asks for the least
        attention = self._cores.attention(head_dim) if settings.attention_bits == 8 else None
        attention_misfit = self._against(attention, head_dim) if attention else None
        return Precision(linears, None if attention_misfit else attention, linears_misfit, attention_misfit)

    def proven(self, settings: SamplingSettings, variant: str) -> Precision:
        """Return what a video is computed with, after small calls on the device; each is made once."""
        with self._proving:
            while True:
                precision = self.expected(settings, variant)
                used = [precision.linears, precision.attention]
                keys = {(name, self._head_dim(variant)) for name in used if name}
                new = keys - self._faults.keys()
                if not new:
                    return precision
                self._faults |= {key: self._cores.fault(*key) for key in new}

    def _against(self, name: str, head_dim: int) -> str | None:
        return self._cores.misfit(name, head_dim) or self._faults.get((name, head_dim))

    def _head_dim(self, variant: str) -> int:
        part = transformer_part(variant)
        place, problems = self._source.inspect(part)
        return attention_head_dim(part, place) if place and not problems else PUBLISHED_HEAD_DIM
