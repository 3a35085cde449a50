"""What the transformer computes once and not in every step, as plain data.

A step's own work is the latents being sampled and the blocks. Everything else depends on the conditions alone (once per
video: `Conditioning`) or on the history too (once per section: `PackedHistory`). `HunyuanVideoTransformer3DModelPacked`
makes both (`condition`, `pack`) and takes both (`denoise`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import Lengths


@dataclass(frozen=True, eq=False)
class Modulations:
    """Shifts, scales and gates of every block for S steps: about 55 MB in place of 6.8 GB of weights at full size.

    Attributes:
        double_blocks, single_blocks: one tensor (S, B, vectors * dim) per block.
        out: of the last norm, (S, B, 2 * dim).
    """

    double_blocks: tuple[Tensor, ...]
    single_blocks: tuple[Tensor, ...]
    out: Tensor


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What follows from the steps' timesteps, the guidance, a prompt and a picture.

    Attributes:
        modulations: for all steps.
        text: refined text tokens (S, B, L, dim); the refiner reads the timestep.
        picture: image features as tokens (B, n, dim), or None.
        lengths: valid tokens of [picture | text] per sample; None when all are.
    """

    modulations: Modulations
    text: Tensor
    picture: Tensor | None
    lengths: Lengths

    @property
    def steps(self) -> int:
        """S."""
        return len(self.text)

    def context(self, step: int) -> Tensor:
        """The stream [picture | text] of one step, (B, n + L, dim)."""
        text = self.text[step]
        return text if self.picture is None else torch.cat([self.picture, text], dim=1)


@dataclass(frozen=True, eq=False)
class PackedHistory:
    """The clean latents of a section as tokens, and where every image token stands.

    Attributes:
        tokens: [4x | 2x | clean], (B, L_clean, dim); L_clean may be 0.
        rope: rotary table of [4x | 2x | clean | sampled], (B, L, 2 * head_dim) float32.
    """

    tokens: Tensor
    rope: Tensor
