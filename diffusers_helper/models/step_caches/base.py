"""What the transformer asks of a step cache, and the cache that never skips.

A step cache decides whether a sampling step runs the transformer's blocks or reuses what an earlier one gave. It keeps
one state per branch of guidance, so that the branches never see each other's numbers, and knows the numbers at two
places, around the blocks and around the whole call, and nothing else of the model.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

POSITIVE, NEGATIVE = "positive", "negative"
"""The branches of guidance: with the prompt, and with the negative prompt."""


class StepCache:
    """The state of one video's run; every section begins anew after the last step of the one before.

    A cache overrides `run` or `predict`. This one skips nothing.

    Attributes:
        passes: how many calls ran the blocks, per branch.
    """

    def __init__(self) -> None:
        self.passes: Counter[str] = Counter()

    def predict(self, latents: Tensor, *, branch: str, compute: Callable[[], Tensor]) -> Tensor:
        """The flow of noisy `latents`, both (B, C, T, H, W): `compute()`, or an estimate."""
        return compute()

    def run(
        self, image: Tensor, *, branch: str, modulated_input: Callable[[], Tensor], blocks: Callable[[], Tensor]
    ) -> Tensor:
        """The sampled tokens behind all blocks: `blocks()`, or an estimate.

        Args:
            image: the sampled tokens before the blocks, (B, L, dim).
            branch: of guidance.
            modulated_input: gives the first block's input, of all image tokens.
            blocks: runs the blocks; gives the sampled tokens behind them, shaped like `image`.
        """
        self.passes[branch] += 1
        return blocks()


class NoCache(StepCache):
    """Every call runs the blocks."""


@dataclass(frozen=True)
class CacheInputs:
    """What a step cache is made for.

    Attributes:
        steps: calls per section and branch.
        ratios: how much of a residual's size each step has of the one before (`magcache`), for any number of steps;
            None where nobody measured that model.
        parameters: of the cache, by name, in place of its defaults.
        in_8_bits: whether blocks multiply 8-bit numbers, whose noise is another in every step.
    """

    steps: int
    ratios: tuple[float, ...] | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    in_8_bits: bool = False


@dataclass(frozen=True)
class StepCacheKind:
    """An entry of the registry: a way to skip steps.

    Attributes:
        name: how requests and options call it.
        make: returns the state for one video; raises SettingsError for a model of which it has to know more.
        share: which part of the calls will run the blocks, as far as that is known before; for estimates of time.
        held_streams: tensors of the image stream's size that it holds per branch, for the memory plan.
        held_samples: likewise, of the sampled tokens' size.
        by_ratios: `make` reads `ratios`.
    """

    name: str
    make: Callable[[CacheInputs], StepCache]
    share: Callable[[CacheInputs], float]
    held_streams: int = 0
    held_samples: int = 0
    by_ratios: bool = False


NO_CACHE = StepCacheKind("none", lambda _: NoCache(), lambda _: 1.0)
