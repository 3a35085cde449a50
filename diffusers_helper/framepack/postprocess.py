"""What follows a section's sampling: decoding, and whatever the caller adds (writing files).

Sections are postprocessed one after the other, either before the next one is sampled or in a background thread
meanwhile; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from diffusers_helper.core.background import BackgroundRunner
from diffusers_helper.core.errors import NumericsError
from diffusers_helper.core.events import Event, SectionDone, SectionSampled, StageStarted
from diffusers_helper.core.messages import Message
from diffusers_helper.framepack.decoding import Check, Decoder

Events = Generator[Event, None, None]


def _unchanged(events: Events, _check: Check) -> Events:
    return events


@dataclass(frozen=True)
class Settle:
    """All sections before it are to be postprocessed before sampling goes on: it takes their memory."""


@dataclass(frozen=True, eq=False)
class SampledSection:
    """A section that is sampled; what the history holds from now on does not reach it.

    Attributes:
        event: its latents.
        labels: which section it is of how many, as values of a message.
        to_decode: latents (B, 16, n, H, W); None where a later section decodes this one, too.
        trim: pixel frames at the front of them that are not of this section.
    """

    event: SectionSampled
    labels: dict[str, int]
    to_decode: Tensor | None
    trim: int = 0


@dataclass(frozen=True, eq=False)
class Postprocess:
    """How sections are finished.

    Attributes:
        decoder: None leaves sections as latents.
        wrap: gets the events of a section and yields those that come out instead: more of them, usually. It runs where
            the section is postprocessed; its second argument raises CancelledError there once the iterator is closed.
        overlap: postprocess in a background thread, beside the next section's sampling; needs memory for both models.
            On a GPU the thread has a stream of its own.
        serialize_decode: with `overlap`, let the next section wait until this one is decoded, so that one model is at
            work at a time; only what `wrap` does with the pixels is beside the sampling.
    """

    decoder: Decoder | None = None
    wrap: Callable[[Events, Check], Events] = _unchanged
    overlap: bool = False
    serialize_decode: bool = False

    def run(self, items: Iterator[Event | SampledSection | Settle], device: torch.device) -> Iterator[Event]:
        """Pass events on and postprocess the sections among `items`, which were sampled on `device`."""
        return self._overlapped(items, device) if self.overlap else self._inline(items)

    def _section(self, sampled: SampledSection, check: Check) -> Events:
        return self.wrap(self._decoded(sampled, check), check)

    @torch.inference_mode()  # a thread's own
    def _decoded(self, sampled: SampledSection, check: Check) -> Events:
        yield sampled.event
        pixels = None
        if self.decoder is not None and sampled.to_decode is not None:
            yield StageStarted("decode", Message("Decoding section {number} of {sections}", **sampled.labels))
            pixels = self.decoder.decode(sampled.to_decode, check)[:, :, sampled.trim :]
            require_finite(pixels, Message("The pixels of section {number} of {sections}", **sampled.labels))
        yield SectionDone(sampled.event.index, sampled.event.latents, pixels)

    def _inline(self, items: Iterator[Event | SampledSection | Settle]) -> Iterator[Event]:
        for item in items:
            if isinstance(item, SampledSection):
                yield from self._section(item, lambda: None)
            elif not isinstance(item, Settle):
                yield item

    def _overlapped(self, items: Iterator[Event | SampledSection | Settle], device: torch.device) -> Iterator[Event]:
        with BackgroundRunner[Event]() as background:
            for item in items:
                if isinstance(item, SampledSection):
                    yield from background.items(wait=True)
                    stream = _stream(device, own=not self.serialize_decode)
                    background.start(self._section(item, background.check), stream)
                    if self.serialize_decode:
                        yield from background.items(wait=True, until=lambda event: isinstance(event, SectionDone))
                elif isinstance(item, Settle):
                    yield from background.items(wait=True)
                else:
                    yield item
                    # What is not waited for is no stage that the user should read as the current one.
                    yield from (e for e in background.items(wait=False) if not isinstance(e, StageStarted))
            yield from background.items(wait=True)


def require_finite(tensor: Tensor, what: str, computed_in: torch.dtype | None = None) -> None:
    """Raise NumericsError if `tensor`, called `what` in the sentence, holds NaN or infinity.

    `computed_in` is the dtype of the weights that made it, which decides about the advice; None is any other.
    """
    if torch.isfinite(tensor).all():
        return
    if computed_in == torch.float16:
        raise NumericsError(
            Message(
                "{what} hold numbers that are not finite, so the video would be black. This card computes in float16, "
                "which ends at 65504: try another seed, prompt or size, or a card of the RTX 30 series or newer.",
                what=what,
            )
        )
    raise NumericsError(
        Message(
            "{what} hold numbers that are not finite, so the video would be black. "
            "Try again without TeaCache, with CFG at 1, or with another attention backend (--attention sdpa).",
            what=what,
        )
    )


def _stream(device: torch.device, *, own: bool) -> AbstractContextManager[Any]:
    """On a GPU a context with another stream, which begins with the results of the current one so far.

    Not `own`: with the current one, since memory that torch keeps for one stream serves no other.
    """
    if device.type != "cuda":
        return nullcontext()
    current = torch.cuda.current_stream(device)
    if not own:
        return torch.cuda.stream(current)
    stream = _side_stream(device)
    stream.wait_stream(current)
    return torch.cuda.stream(stream)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the whole process: torch's allocator keeps freed memory per stream."""
    return torch.cuda.Stream(device)
