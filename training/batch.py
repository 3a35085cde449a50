"""What one training step of the transformer reads."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


@dataclass
class Batch:
    """Everything that one training step reads, on the device; B samples of one picture shape and one text length.

    Attributes:
        target: latents to sample, (B, 16, 9 or 1, H, W).
        clean, clean_2x, clean_4x: history (B, 16, n, H, W), and which of it may be disturbed, (B, n) each.
        times: time indices (B, n) by field.
        text, pooled: states (B, L, width) and pooled vectors (B, width) of the captions.
        thumbnails: pictures for the image encoder, (B, 3, 64, 64), -1..1.
        kind: number in `sections.KINDS`, (B,).
    """

    target: Tensor
    clean: Tensor
    clean_2x: Tensor
    clean_4x: Tensor
    movable: dict[str, Tensor]
    times: dict[str, Tensor]
    text: Tensor
    pooled: Tensor
    thumbnails: Tensor
    kind: Tensor

    def flat(self) -> dict[str, Tensor]:
        """All tensors by name."""
        found: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            found |= (
                {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
            )
        return found

    @classmethod
    def of(cls, flat: dict[str, Tensor]) -> Batch:
        """What `flat` took apart, of a dictionary that may hold more."""
        parts: dict[str, Any] = {}
        for field in fields(cls):
            inner = {name.split(".")[1]: value for name, value in flat.items() if name.startswith(f"{field.name}.")}
            parts[field.name] = inner or flat[field.name]
        return cls(**parts)
