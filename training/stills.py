"""Single frames from text: pictures that words describe in full, as latents, and what the model sees to make one.

One latent frame is sampled at time 9. At time 0 lies a latent of nothing, zeros or a grey picture; the later slots are
empty, and the image encoder sees grey.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from diffusers_helper.core.frame import frame_plan
from diffusers_helper.core.plan import VideoPlan
from training.batch import Batch
from training.family import CLIP_WIDTH, IMAGE_SIZE, LLAMA_WIDTH
from training.latents import encode
from training.pool import SHAPES, captions_of, encoded
from training.scenes import GREY, draw_scene, paint_scenes
from training.sections import KINDS
from training.texts import TextEncoders, Tokenizers

LENGTHS = (7, 10, 13, 16)
"""Tokens that a picture's caption may have, as in the pool of clips."""
CHUNK = 64
GREY_PART = 0.5
"""So many samples have a grey picture at time 0, the others zeros."""


def still_plan() -> VideoPlan:
    """The plan of a single frame: the product's own."""
    return frame_plan()


class StillPool:
    """Described pictures of every shape as latents, and batches of them.

    Args:
        vae: of the pool of clips.
        words: the tokenizers.
        encoders: trained, on the device.
        size: pictures kept.
        seed: of pictures, captions and choices.
    """

    def __init__(
        self,
        vae: AutoencoderKLHunyuanVideo,
        words: Tokenizers,
        encoders: TextEncoders,
        size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.vae, self.words, self.encoders, self.device = vae, words, encoders, device
        self.rng, self.numpy = random.Random(seed), np.random.default_rng(seed)
        self.shelves = [
            _Shelf(max(CHUNK, int(size * part)), height, width, device) for (height, width), part in SHAPES.items()
        ]
        self.greys = [self._latents(torch.full((1, 3, *shape), GREY, device=device))[0] for shape in SHAPES]
        for shelf in self.shelves:
            while not shelf.full:
                self._fill(shelf)

    def renew(self) -> None:
        """Put some new pictures in place of the oldest ones of a shape."""
        self._fill(self.rng.choices(self.shelves, list(SHAPES.values()))[0])

    def batch(self, count: int) -> Batch:
        """Draw pictures of one shape and one text length."""
        index = self.rng.choices(range(len(self.shelves)), list(SHAPES.values()))[0]
        shelf = self.shelves[index]
        length = int(shelf.lengths[self.rng.randrange(len(shelf.lengths))])
        (found,) = np.nonzero(shelf.lengths == length)
        rows = torch.from_numpy(found[self.numpy.integers(len(found), size=count)]).to(self.device)
        return self._cut(shelf, self.greys[index], rows, length)

    def _cut(self, shelf: _Shelf, grey: Tensor, rows: Tensor, length: int) -> Batch:
        count = len(rows)
        target = shelf.latents[rows].float()[:, :, None]
        (section,) = still_plan().sections
        times = {"target": section.latent_indices, "clean": section.indices(1)}
        times |= {f"clean_{factor}x": section.indices(factor) for factor in (2, 4)}
        empty = {name: target.new_zeros(count, 16, len(times[name]), *target.shape[-2:]) for name in times}
        with_grey = torch.rand(count, device=self.device) < GREY_PART
        empty["clean"][:, :, 0] = with_grey[:, None, None, None] * grey
        return Batch(
            **empty | {"target": target},
            movable={
                name: torch.zeros(count, len(times[name]), dtype=torch.bool, device=self.device)
                for name in ("clean", "clean_2x", "clean_4x")
            },
            times={name: torch.tensor([indices] * count, device=self.device) for name, indices in times.items()},
            text=shelf.text[rows, :length].float(),
            pooled=shelf.pooled[rows].float(),
            thumbnails=grey_thumbnails(count, self.device),
            kind=torch.full((count,), KINDS.index("frame"), device=self.device),
        )

    def _fill(self, shelf: _Shelf) -> None:
        scenes = [draw_scene(self.rng) for _ in range(CHUNK)]
        where = torch.from_numpy(shelf.slots(CHUNK)).to(self.device)
        pictures = paint_scenes(scenes, shelf.height, shelf.width, self.device)
        shelf.latents[where] = self._latents(pictures).to(shelf.latents.dtype)
        texts = captions_of(scenes, LENGTHS, self.words, self.rng)
        states, pooled, lengths = encoded(texts, self.words, self.encoders, self.device)
        shelf.text[where, : states.shape[1]] = states.to(shelf.text.dtype)
        shelf.pooled[where] = pooled.to(shelf.pooled.dtype)
        shelf.lengths[where.cpu().numpy()] = lengths.numpy()

    @torch.no_grad()
    def _latents(self, pictures: Tensor) -> Tensor:
        return encode(self.vae, (pictures[:, :, None] * 2 - 1).to(self.vae.dtype))[:, :, 0]


class _Shelf:
    """The pictures of one shape."""

    def __init__(self, size: int, height: int, width: int, device: torch.device) -> None:
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.height, self.width = height, width
        self.latents = torch.zeros(size, 16, height // 8, width // 8, device=device, dtype=half)
        self.text = torch.zeros(size, LENGTHS[-1], LLAMA_WIDTH, device=device, dtype=half)
        self.pooled = torch.zeros(size, CLIP_WIDTH, device=device, dtype=half)
        self.lengths = np.zeros(size, np.int64)
        self.next = 0

    @property
    def full(self) -> bool:
        return bool(self.lengths.all())

    def slots(self, count: int) -> np.ndarray:
        """Places for `count` new pictures: over the oldest."""
        chosen = (self.next + np.arange(count)) % len(self.lengths)
        self.next = (self.next + count) % len(self.lengths)
        return chosen


def grey_thumbnails(count: int, device: torch.device) -> Tensor:
    """Grey pictures for the image encoder, (count, 3, 64, 64)."""
    return torch.full((count, 3, IMAGE_SIZE, IMAGE_SIZE), round(GREY * 255) / 127.5 - 1, device=device)
