"""Linear layers whose weights are blocks of a GGUF file, expanded whenever they are read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .gguf_blocks import BLOCKS
from .stored_linear import StoredLinear


class GgufLinear(StoredLinear):
    """Takes the place of a linear layer.

    Attributes:
        blocks: (out, bytes of a row) uint8.
        kind: the blocks' type, a key of `BLOCKS`.
    """

    blocks: Tensor

    def __init__(self, layer: nn.Linear, kind: str) -> None:
        super().__init__(layer)
        self.kind = kind
        shape = (layer.out_features, layer.in_features // BLOCKS[kind].numbers * BLOCKS[kind].nbytes)
        self.register_buffer("blocks", torch.empty(shape, dtype=torch.uint8, device=layer.weight.device))

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """See StoredLinear."""
        out = torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.blocks.device)
        return self.kernels.expand_blocks(self.kind, self.blocks, out)
