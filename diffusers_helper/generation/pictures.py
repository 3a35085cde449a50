"""What a video is made from as the models see it: pictures or frames of given videos, all of one size."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffusers_helper.core.buckets import video_size
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.scores import MOST, latents_of
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo, before_blurred, cover
from diffusers_helper.media.recipe import png_comment

Picture = NDArray[np.uint8]
BLANK = 8
"""Levels between the darkest and the brightest value of a photo that shows nothing: its video may do the same."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures by name, (H, W, 3) each.

    Attributes:
        named: the pictures; of given videos the one frame that sections look at, by its video's name.
        png: the first of them as a file, with the settings in it.
        more: the other pictures as files.
        clips: frames of given videos, uint8 (3, 4k+1, H, W), by the side that they are on.
    """

    named: dict[str, Picture]
    png: bytes
    more: tuple[bytes, ...] = ()
    clips: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width, _ = next(iter(self.named.values())).shape
        return height, width

    @property
    def latents(self) -> dict[str, int]:
        """How many latents there will be of each given picture or video."""
        clips = {name: latents_of(frames.shape[1], MOST[name]) for name, frames in self.clips.items()}
        return clips or dict.fromkeys(self.named, 1)

    @property
    def show_something(self) -> bool:
        """Whether a video of them should."""
        return all(np.ptp(picture) > BLANK for picture in self.named.values())


def prepared(inputs: JobInputs, recipe: str) -> Pictures:
    """Bring the pictures to the video's size; `recipe` is what the PNG says of its settings, empty for nothing."""
    height, width = video_size(inputs.request, inputs.shape)
    named = {name: _fitted(photo, height, width, inputs.request) for name, photo in inputs.pictures.items()}
    more = tuple(png_of(picture) for name, picture in named.items() if name != START)
    return Pictures(named, png_of(named[START], recipe), more)


def pixels_of(picture: Picture) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, 1, H, W) float32 in -1..1."""
    return (torch.from_numpy(picture).float() / 127.5 - 1).permute(2, 0, 1)[None, :, None]


def png_of(picture: Picture, recipe: str = "") -> bytes:
    """Return a picture as a file that says with which settings it was used."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", pnginfo=png_comment(recipe) if recipe else None)
    return file.getvalue()


def _fitted(photo: Photo, height: int, width: int, request: GenerationRequest) -> Picture:
    pixels = np.asarray(photo.image)
    if request.fit == "blur":
        return before_blurred(pixels, width, height)
    return cover(pixels, width, height, request.focus)
