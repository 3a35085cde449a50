"""What steers a section besides latents: a prompt and a picture as the transformer gets them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditions:
    """What steers a section.

    Attributes:
        prompt_embeds: Llama states of the prompt, (B, L, 4096), zero-padded to L.
        prompt_mask: True for its valid tokens, (B, L) bool.
        pooled: CLIP's pooled vector, (B, 768).
        negative_embeds, negative_mask, negative_pooled: the same of the negative prompt; used when CFG is above 1.
        image_embeddings: SigLIP states of the start picture, (B, 729, 1152).
    """

    prompt_embeds: Tensor
    prompt_mask: Tensor
    pooled: Tensor
    negative_embeds: Tensor | None = None
    negative_mask: Tensor | None = None
    negative_pooled: Tensor | None = None
    image_embeddings: Tensor | None = None


def blend(before: Conditions, after: Conditions, fraction: float) -> Conditions:
    """Return conditions on the way from one prompt to another, at `fraction` between 0 and 1; they at its ends.

    Llama states and the pooled vector are interpolated linearly, and the mask is the longer text's: beyond its end a
    text's states are zero. All else is as in `after`.
    """
    if fraction in (0, 1):
        return after if fraction else before
    return replace(
        after,
        prompt_embeds=between(before.prompt_embeds, after.prompt_embeds, fraction),
        prompt_mask=torch.maximum(before.prompt_mask, after.prompt_mask),
        pooled=between(before.pooled, after.pooled, fraction),
    )


def between(before: Tensor, after: Tensor, fraction: float) -> Tensor:
    """Return (1 - fraction) of one tensor and `fraction` of the other."""
    return before * (1 - fraction) + after * fraction
