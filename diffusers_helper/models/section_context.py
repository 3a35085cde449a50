"""What the transformer computes once and not in every step, as plain data.

A step's own work is the latents being sampled and the blocks. Everything else depends on the conditions alone (once per
video: `Conditioning`) or on the history too (once per section: `PackedHistory`). `HunyuanVideoTransformer3DModelPacked`
makes both (`condition`, `pack`) and takes both (`denoise`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .execution import Execution
from .spread import Lengths


@dataclass(frozen=True, eq=False)
class ConditionInputs:
    """What a prompt and a picture give the transformer, on its device and in its dtype.

    Attributes:
        text: Llama states (B, L, text_embed_dim).
        mask: (B, L), true for the valid tokens, which come first.
        pooled: CLIP's vector (B, pooled_projection_dim).
        guidance: (B,), distilled guidance scale * 1000; None for models without guidance_embeds.
        image_embeddings: (B, n, image_proj_dim); None for models without has_image_proj.
    """

    text: Tensor
    mask: Tensor
    pooled: Tensor
    guidance: Tensor | None
    image_embeddings: Tensor | None


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


class Denoiser(Protocol):
    """What sampling asks of a transformer; see `HunyuanVideoTransformer3DModelPacked`'s methods of these names."""

    def condition(self, timesteps: Tensor, inputs: ConditionInputs, execution: Execution) -> Conditioning:
        """What follows from the conditions, for all `timesteps` (S, B) at once."""

    def pack(
        self, sampled: Tensor, indices: Tensor | None, history: Mapping[int, tuple[Tensor | None, Tensor | None]]
    ) -> PackedHistory:
        """What follows from the clean latents and all time indices, by factor of coarseness."""

    def denoise(
        self,
        latents: Tensor,
        step: int,
        conditioning: Conditioning,
        history: PackedHistory,
        execution: Execution,
        branch: str,
    ) -> Tensor:
        """The flow v (B, C, T, H, W) of noisy `latents` of that shape, at the step's timestep."""
