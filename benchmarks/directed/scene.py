"""Photographs with motions that are known: where they lead is where a directed video has to get to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.metrics import Frames
from benchmarks.studio import Studio
from diffusers_helper.media.photo import Photo, cover
from training.clips import render
from training.motions import Motion

SECTION = 36
"""Frames of a section."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A photograph that is seen by a moving camera.

    Attributes:
        name: of the photograph.
        pixels: (1, 3, 2H, 2W), 0..1.
    """

    name: str
    pixels: Tensor

    @classmethod
    def of(cls, photo: Photo, name: str, size: Sequence[int]) -> Scene:
        """`photo` for videos of that height and width."""
        height, width = size
        pixels = cover(np.asarray(photo.image), 2 * width, 2 * height)
        return cls(name, torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)

    @property
    def side(self) -> int:
        """The shorter side of its frames."""
        return min(self.pixels.shape[-2:]) // 2

    def clip(self, motion: Motion, times: Iterable[float]) -> Frames:
        """Frames (T, H, W, 3) with those numbers; 0 is the start picture."""
        found = render(self.pixels, [motion], torch.tensor([list(times)]).float())[0]
        return (found.permute(1, 2, 3, 0) * 255).round().to(torch.uint8).numpy()

    def at(self, motion: Motion, time: int) -> Frames:
        """One frame, (H, W, 3)."""
        picture: Frames = self.clip(motion, [time])[0]
        return picture


Numbers = dict[str, Any]
Measured = Iterator[tuple[Numbers, list[Frames]]]
"""Numbers of one clip, the name of its "case" among them, and frames of it to look at."""
Measure = Callable[[Studio, Sequence[Scene]], Measured]


def borders(frames: Frames) -> list[Frames]:
    """The frames at which sections end, and the first one."""
    return list(frames[::SECTION])
