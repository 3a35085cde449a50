"""How the transformer computes: handed to every call, so that nothing is set on the model."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .branches import Branches, both
from .eight_bit_attention import EightBitAttention
from .kernels import PLAIN, Kernels
from .linears import EightBitLinears, ExactLinears, Linears
from .recording import GraphRecorder
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
        stream: dtype of the streams between blocks; None is the weights'. Another one needs kernels that give products
            the dtype of their modulation (`WideKernels`, the fused ones).
        eight_bit_linears: multiply the layers of the blocks; None computes in the model's dtype.
        eight_bit_attention: attends in the blocks in place of `attention`, which the text refiner keeps.
        spread: how the sequence lies on processes.
        branches: how both branches of guidance are computed.
        constant: whether the weights stay as and where they are from call to call.
        recorder: replays the blocks where that is faster; for constant weights alone.
    """

    attention: AttentionFunction = sdpa
    kernels: Kernels = PLAIN
    mlp_chunk: int | None = None
    step_cache: StepCache = field(default_factory=NoCache)
    stream: torch.dtype | None = None
    eight_bit_linears: EightBitLinears | None = None
    eight_bit_attention: EightBitAttention | None = None
    spread: Spread = WHOLE
    branches: Branches = both
    constant: bool = False
    recorder: GraphRecorder | None = None

    @property
    def in_8_bits(self) -> bool:
        """Whether the blocks multiply 8-bit numbers."""
        return self.eight_bit_linears is not None or self.eight_bit_attention is not None

    @property
    def linears(self) -> Linears:
        """How the linear layers of the blocks compute."""
        return self.eight_bit_linears or ExactLinears(self.kernels)

    def for_gradients(self) -> "Execution":
        """The same, of operations that have gradients: neither the fused nor the 8-bit ones do."""
        return replace(
            self,
            kernels=PLAIN,
            mlp_chunk=None,
            eight_bit_linears=None,
            eight_bit_attention=None,
            stream=None,
            recorder=None,
        )

    def as_stream(self, x: Tensor) -> Tensor:
        """Tokens in the dtype that streams have between blocks."""
        return x if self.stream is None else x.to(self.stream)
