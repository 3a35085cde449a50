"""Frames that were made at 30 per second and a bucket's size, brought to a given video's own rate and size."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from diffusers_helper.core.plan import FPS
from diffusers_helper.media.clip_pixels import Display, upright_rgb
from diffusers_helper.media.growing import count_frames
from diffusers_helper.media.reading import Check, open_frames

_SLOWEST, _FASTEST = 20, Fraction(121, 2)
"""Given rates outside are kept for the given frames alone: motion made for 30 would jump, or stand still in between."""


def rate_of_made(given: Fraction) -> Fraction:
    """Return the rate of made frames beside a video with the `given` one."""
    return given if _SLOWEST <= given <= _FASTEST else Fraction(FPS)


def spread(made: int, rate: Fraction) -> list[int]:
    """Return which of so many frames, made between two that are given, are shown at `rate`: the nearest, at even steps.

    Between are `made` + 1 steps of 1/30 s; they become the nearest number of steps at `rate`.
    """
    steps = max(2, round((made + 1) * rate / FPS))
    places = (Fraction(number * (made + 1), steps) for number in range(1, steps))
    return [min(max(int(place + Fraction(1, 2)), 1), made) - 1 for place in places]


def made_frames(path: Path, rate: Fraction, shown: tuple[int, int], check: Check) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a made file as uint8 (H, W, 3) of the `shown` (width, height), at `rate`."""
    wanted, scaler = spread(count_frames(path), rate), VideoReformatter()
    with open_frames(path, check) as frames:
        place = 0
        for number, (_, frame) in enumerate(frames):
            if place == len(wanted):
                return
            if number < wanted[place]:
                continue
            pixels = fitted(upright_rgb(frame, Display(), scaler), shown)
            while place < len(wanted) and wanted[place] == number:
                yield pixels
                place += 1


def fitted(pixels: NDArray[np.uint8], shown: tuple[int, int]) -> NDArray[np.uint8]:
    """Lay what was made over the middle of a frame of `shown` (width, height), where it was cropped from.

    What the crop had cut off is filled with the mirror image of what is beside it, so that nothing jumps at the joint.
    """
    height, width = pixels.shape[:2]
    scale = max(width / shown[0], height / shown[1])  # as `resize_and_center_crop` had it
    inner = min(round(width / scale), shown[0]), min(round(height / scale), shown[1])
    scaled = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(inner, Image.Resampling.LANCZOS))
    left, top = (shown[0] - inner[0]) // 2, (shown[1] - inner[1]) // 2
    margins = (top, shown[1] - inner[1] - top), (left, shown[0] - inner[0] - left), (0, 0)
    return np.pad(scaled, margins, mode="symmetric")
