"""Processes that sample one video together: who samples which section, and how they stay in step.

All of them run the same loop over the same plan with the same seed, and hold the same latents. They meet at every tick.
What they tell each other is small (3.5 MB per section and tick at full size) and goes through the CPUs' memory, so that
any link will do and nobody's GPU waits inside a call that nothing ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor, distributed

from diffusers_helper.core.errors import CancelledError, PartnerError, PartnerGoneError
from diffusers_helper.core.messages import Message

GO, END, FAILED = range(3)
REASON_BYTES = 400


class Partners(Protocol):
    """The processes of one video, seen from one of them."""

    @property
    def seconds(self) -> float | None:
        """How long this process' part of the newest tick took; None as long as that is not known."""

    def samples(self, section: int) -> bool:
        """Whether this process samples the section of that number."""

    def meet(self, sections: Sequence[int], latents: Mapping[int, Tensor], like: Tensor) -> Mapping[int, Tensor]:
        """Wait until all have done their part of a tick; return the latents of all `sections`.

        Args:
            sections: those at work.
            latents: of the sections that this process samples.
            like: latents of the size, dtype and device of all.

        Raises CancelledError if one of them has left, and PartnerError if one of them failed or is gone.
        """

    def leave(self, reason: str) -> None:
        """Let the others know, where they meet next, that this process comes no more; "" if the video was ended.

        Does nothing the second time, and once the video is finished.
        """

    def finish(self) -> None:
        """Know that all is sampled: nobody meets any more."""


class Alone:
    """One process samples all."""

    seconds = None

    def samples(self, _section: int) -> bool:
        """All of them."""
        return True

    def meet(self, _sections: Sequence[int], latents: Mapping[int, Tensor], _like: Tensor) -> Mapping[int, Tensor]:
        """There is nobody to wait for."""
        return latents

    def leave(self, _reason: str) -> None:
        """There is nobody to tell."""

    def finish(self) -> None:
        """There is nobody to meet."""


class Together:
    """Every process of a group takes part in every step.

    Who fails has not come to the end of a step, where the others wait for it by other means: nothing that it could tell
    them here would reach them. Whoever started the processes ends them.

    Args:
        group: one that moves tensors on the CPU (gloo).
        clock: gives seconds.

    Attributes:
        seconds: see `Partners`; a tick, which all share.
    """

    def __init__(self, group: distributed.ProcessGroup, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds: float | None = None
        self._clock, self._met = clock, 0.0
        self._group = group
        self._rank, self._size = distributed.get_rank(group), distributed.get_world_size(group)
        self._left = False

    def samples(self, _section: int) -> bool:
        """All of them."""
        return True

    def meet(self, _sections: Sequence[int], latents: Mapping[int, Tensor], _like: Tensor) -> Mapping[int, Tensor]:
        """See `Partners`; all have the same latents."""
        self._agree(GO)
        self._note_work()
        self._met = self._clock()
        return latents

    def leave(self, reason: str) -> None:
        """See `Partners`."""
        if not reason:
            self._tell(reason)

    def finish(self) -> None:
        """See `Partners`."""
        self._left = True

    def _note_work(self) -> None:
        if self._met:
            self.seconds = self._clock() - self._met

    def _tell(self, reason: str) -> None:
        if not self._left:
            with suppress(CancelledError, PartnerError):  # they know
                self._agree(FAILED if reason else END, reason)

    def _agree(self, state: int, reason: str = "") -> None:
        mine = torch.zeros(1 + REASON_BYTES, dtype=torch.uint8)
        said = reason.encode()[:REASON_BYTES]
        mine[: 1 + len(said)] = torch.tensor([state, *said], dtype=torch.uint8)
        states = [torch.empty_like(mine) for _ in range(self._size)]
        try:
            distributed.all_gather(states, mine, self._group)
        except RuntimeError as error:  # the other end of a connection is gone
            self._left = True
            raise PartnerGoneError(Message("Another GPU's process ended: {reason}", reason=error)) from error
        for rank, told in enumerate(states):
            if told[0] == FAILED:
                self._left = True
                text = bytes(told[1:].tolist()).rstrip(b"\0").decode(errors="ignore")
                raise PartnerError(Message("GPU {number} of the group failed: {reason}", number=rank, reason=text))
        if any(told[0] == END for told in states):
            self._left = True
            raise CancelledError("The video was ended.")


class InTurns(Together):
    """The sections go round: each process of a group samples its own, and all get the latents of each."""

    def samples(self, section: int) -> bool:
        """Every so manyth."""
        return self._owner(section) == self._rank

    def meet(self, sections: Sequence[int], latents: Mapping[int, Tensor], like: Tensor) -> Mapping[int, Tensor]:
        """See `Partners`."""
        own = {section: mine.cpu().contiguous() for section, mine in latents.items()}  # they are done with that
        if own:
            self._note_work()
        self._agree(GO)
        found = {}
        for section in sections:
            sent = own[section] if section in own else torch.empty(like.shape, dtype=like.dtype)
            distributed.broadcast(sent, group=self._group, group_src=self._owner(section))
            found[section] = latents[section] if section in own else sent.to(like.device)
        self._met = self._clock()
        return found

    def leave(self, reason: str) -> None:
        """See `Partners`."""
        self._tell(reason)

    def _owner(self, section: int) -> int:
        return section % self._size
