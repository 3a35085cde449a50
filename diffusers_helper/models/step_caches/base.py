"""What the transformer asks of a step cache, and the cache that never skips.

A step cache decides whether a sampling step runs the transformer's blocks or reuses what they added before. It keeps
one state per branch of guidance, so that the branches never see each other's numbers, and knows the image stream before
and after the blocks and nothing else of the model.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

POSITIVE, NEGATIVE = "positive", "negative"
"""The branches of guidance: with the prompt, and with the negative prompt."""


class StepCache(Protocol):
    """The state of one video's run; every section begins anew after the last step of the one before."""

    passes: Counter[str]
    """How many calls ran the blocks, per branch."""

    def run(
        self, image: Tensor, *, branch: str, modulated_input: Callable[[], Tensor], blocks: Callable[[], Tensor]
    ) -> Tensor:
        """The image stream behind all blocks: `blocks()`, or an estimate from `image`, the stream before them."""


@dataclass(frozen=True)
class StepCacheKind:
    """An entry of the registry: a way to skip steps, with its settings' defaults inside `make`.

    Attributes:
        name: how requests and options call it.
        make: gets the steps of a section; returns the state for one video.
        held_streams: tensors of the image stream's size that it holds per branch, for the memory plan.
        lossy: the numbers differ from those of a run without it.
    """

    name: str
    make: Callable[[int], StepCache]
    held_streams: int = 0
    lossy: bool = True


class NoCache:
    """Every call runs the blocks."""

    def __init__(self) -> None:
        self.passes: Counter[str] = Counter()

    def run(
        self, image: Tensor, *, branch: str, modulated_input: Callable[[], Tensor], blocks: Callable[[], Tensor]
    ) -> Tensor:
        """Run the blocks."""
        self.passes[branch] += 1
        return blocks()


NO_CACHE = StepCacheKind("none", lambda _: NoCache(), lossy=False)
