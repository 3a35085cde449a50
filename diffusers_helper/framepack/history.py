"""The latents a section may look back (or ahead) at, and how a finished section joins them."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_helper.core.planning import HISTORY, HISTORY_LATENTS, START, SectionPlan, VideoPlan


class LatentHistory:
    """Latents generated so far, newest at the end where the video grows; only those still needed are kept.

    Args:
        plan: says where the video grows and what its sections read.
        start_latent: the start picture, (B, 16, 1, H, W) float32.

    Attributes:
        start: that picture.
    """

    def __init__(self, plan: VideoPlan, start_latent: Tensor) -> None:
        self.start = start_latent
        self._at_front = plan.grows_at_front
        self._kept = max(HISTORY_LATENTS, *(section.decode_latents for section in plan.sections))
        zeros = start_latent.new_zeros(start_latent.shape).repeat(1, 1, HISTORY_LATENTS, 1, 1)
        self._latents = torch.cat([zeros, start_latent], dim=2) if plan.start_in_history else zeros

    def context(self, section: SectionPlan) -> dict[int, tuple[Tensor, Tensor]]:
        """Return the clean latents (B, 16, n, H, W) that `section` reads and their time indices (1, n), by factor."""
        sources = {START: self.start, HISTORY: self._latents}
        pieces: dict[int, list[Tensor]] = {}
        for piece in section.context:
            pieces.setdefault(piece.factor, []).append(sources[piece.source][:, :, piece.slot])
        return {
            factor: (torch.cat(found, dim=2), torch.tensor([section.indices(factor)]))
            for factor, found in pieces.items()
        }

    def grow(self, section: SectionPlan, latents: Tensor) -> None:
        """Add the section's `latents` (B, 16, w, H, W)."""
        if section.prepend_start:
            latents = torch.cat([self.start, latents], dim=2)
        if self._at_front:
            self._latents = torch.cat([latents, self._latents], dim=2)[:, :, : self._kept]
        else:
            self._latents = torch.cat([self._latents, latents], dim=2)[:, :, -self._kept :]

    def newest(self, count: int) -> Tensor:
        """Return the `count` latents at the growing end, in the video's time order."""
        return self._latents[:, :, :count] if self._at_front else self._latents[:, :, -count:]
