"""How the processes of a group share a video: an entry of `WAYS` for each value of `--parallel` by which they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import distributed

from diffusers_helper.app.gpu_choices import STAGGER, ULYSSES
from diffusers_helper.app.group_links import LIMIT, exchange_of
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.framepack.partners import InTurns, Together
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.models.branches import Branches, Halves, both
from diffusers_helper.models.spread import WHOLE, Spread
from diffusers_helper.models.ulysses import Ulysses

if TYPE_CHECKING:
    from diffusers_helper.generation.team import Member
    from diffusers_helper.models.vae_decoder import Share

FAST = 40e9
"""Bytes per second between GPUs from which on they share steps: below, exchanging takes too long."""


class Way(Protocol):
    """One way, in one process of a group: each makes the same one, and calls it alike."""

    @staticmethod
    def options(options: ComputeOptions, processes: int) -> ComputeOptions:
        """Return how models compute by it."""

    @staticmethod
    def note(options: ComputeOptions, request: GenerationRequest) -> Message:
        """Return what the user should know of a video of that request."""

    def member(self, shares: Callable[[], Share], *, guided: bool) -> Member:
        """Return this process' part in a video, whose decodes are shared by `shares`."""


class SharedSections:
    """Each process samples sections of its own; see `core.stagger`.

    Args:
        device: this process'.
        cpus: the group, for what goes through the CPUs' memory.
    """

    def __init__(self, device: torch.device, cpus: distributed.ProcessGroup) -> None:  # noqa: ARG002 - as every way
        self._cpus = cpus

    @staticmethod
    def options(options: ComputeOptions, processes: int) -> ComputeOptions:  # noqa: ARG004 - any number gives the bits
        """See `Way`."""
        return options

    @staticmethod
    def note(options: ComputeOptions, request: GenerationRequest) -> Message:
        """See `Way`."""
        if options.stagger is None or options.stagger >= request.steps or request.sections == 1:
            return Message("The GPUs share this video's sections, to the same numbers as on one.")
        return Message(
            "The GPUs share this video's sections: each begins {lag} of {steps} steps after the one that it reads, "
            "which is an approximation (--stagger).",
            lag=options.stagger,
            steps=request.steps,
        )

    def member(self, shares: Callable[[], Share], *, guided: bool) -> Member:  # noqa: ARG002 - a step is one process'
        """See `Way`."""
        from diffusers_helper.generation.team import Member  # with the models' code, which takes seconds

        return Member(InTurns(self._cpus), shares=shares)


class SharedSteps:
    """All processes take part in every step; see `models.ulysses`.

    Of a guided video each half of them computes a branch, where there are halves.

    Args:
        device: this process'.
        cpus: the group, for what goes through the CPUs' memory.
    """

    def __init__(self, device: torch.device, cpus: distributed.ProcessGroup) -> None:
        self._device, self._cpus = device, cpus
        self._rank, self._size = distributed.get_rank(), distributed.get_world_size()
        self._made: dict[bool, tuple[Spread, Branches]] = {}
        self.spread(guided=False)  # what does not work is better known before the first video

    @staticmethod
    def options(options: ComputeOptions, processes: int) -> ComputeOptions:
        """See `Way`."""
        return replace(options, gpus=processes, stagger=None)

    @staticmethod
    def note(options: ComputeOptions, request: GenerationRequest) -> Message:  # noqa: ARG004 - the same for all
        """See `Way`."""
        return Message("The GPUs share every step of this video.")

    def member(self, shares: Callable[[], Share], *, guided: bool) -> Member:
        """See `Way`."""
        from diffusers_helper.generation.team import Member

        spread, branches = self.spread(guided=guided)
        return Member(Together(self._cpus), spread, branches, shares)

    def spread(self, *, guided: bool) -> tuple[Spread, Branches]:
        """Return how the sequence lies on the processes, and how they compute the branches of guidance."""
        halves = guided and self._size % 2 == 0
        if halves not in self._made:
            self._made[halves] = self._halved() if halves else (self._ulysses(range(self._size)), both)
        return self._made[halves]

    def _halved(self) -> tuple[Spread, Branches]:
        half = self._size // 2
        # Every process makes all groups, in the same order, as torch wants it.
        pairs = [distributed.new_group([rank, rank + half], timeout=LIMIT) for rank in range(half)]
        parts = [self._ulysses(range(first, first + half)) for first in (0, half)]
        return parts[self._rank // half], Halves(pairs[self._rank % half])

    def _ulysses(self, ranks: range) -> Spread:
        """Spread a sequence over the processes of these ranks; what this gives to others is of no use to them."""
        if len(ranks) == 1:
            return WHOLE
        whole = distributed.group.WORLD
        group = whole if len(ranks) == self._size else distributed.new_group(list(ranks), timeout=LIMIT)
        assert group is not None, "it was made at the start"
        return Ulysses(group, exchange_of(self._device, group)) if self._rank in ranks else WHOLE


WAYS: dict[str, type[SharedSections] | type[SharedSteps]] = {ULYSSES: SharedSteps, STAGGER: SharedSections}


def way_for(rate: float) -> str:
    """Return what suits GPUs that exchange `rate` bytes per second, where steps can be shared at all."""
    return ULYSSES if rate > FAST else STAGGER
