"""How the transformer computes: handed to every call, so that nothing is set on the model."""

from dataclasses import dataclass, field

from .kernels import PLAIN, Kernels
from .sdpa import AttentionFunction, sdpa
from .spread import WHOLE, Spread
from .step_caches import NoCache, StepCache


@dataclass(eq=False)
class Execution:
    """The functions that one video's calls compute with, and what they keep between steps.

    Attributes:
        attention: from `attention.resolve_attention`.
        kernels: from `kernel_selection.resolve_kernels`; while gradients are recorded, plain ones are used instead.
        mlp_chunk: tokens that a block's MLP takes at a time; None is all. A shortage of memory lowers it for the calls
            that follow.
        step_cache: decides whether a call runs the blocks.
        spread: how the sequence lies on processes.
    """

    attention: AttentionFunction = sdpa
    kernels: Kernels = PLAIN
    mlp_chunk: int | None = None
    step_cache: StepCache = field(default_factory=NoCache)
    spread: Spread = WHOLE
