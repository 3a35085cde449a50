"""A store of clips as latents, made by the trained autoencoder and renewed while the transformer trains."""

from __future__ import annotations

import copy
import random
import time
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from diffusers_helper.core.plan import LATENT_WINDOW
from training.captions import caption
from training.clips import render
from training.family import CLIP_WIDTH, IMAGE_SIZE, LLAMA_WIDTH
from training.latents import encode
from training.loop import autocast, say, sync
from training.motions import Motion, draw_motion
from training.pictures import PictureSource
from training.quick_vae import arranged
from training.sections import NOTHING, SEGMENT_LATENTS, START, draw_pattern, segment_starts, stacked
from training.texts import TextEncoders, Tokenizers, padded

SHAPES = {(128, 128): 0.3, (112, 144): 0.2, (144, 112): 0.12, (96, 160): 0.24, (160, 96): 0.14}
"""Pictures' heights and widths, and their parts of the store."""
FROM_START = 0.75
"""Part of the segments that begin at the start picture."""
PARAPHRASES = 4
LENGTHS = (3, 4, 5, 6, 8, 11)
"""Tokens that a caption may have, the template's end counted in: every length is a CUDA graph of its own."""
CHUNK = 16
"""Clips rendered and encoded at a time."""


@dataclass
class Batch:
    """Everything that one training step reads, on the device; B samples of one picture shape and one text length.

    Attributes:
        target: latents to sample, (B, 16, 9, H, W).
        clean, clean_2x, clean_4x: history (B, 16, n, H, W), and which of it may be disturbed, (B, n) each.
        times: time indices (B, n) by field.
        text, pooled: states (B, L, width) and pooled vectors (B, width) of the captions.
        thumbnails: start pictures for the image encoder, (B, 3, 64, 64), -1..1.
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


class Shelf:
    """The clips of one picture shape."""

    def __init__(self, size: int, height: int, width: int, device: torch.device) -> None:
        latent = (16, height // 8, width // 8)
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.height, self.width = height, width
        self.starts = torch.zeros(size, *latent, device=device, dtype=half)
        self.segments = torch.zeros(size, SEGMENT_LATENTS, *latent, device=device, dtype=half)
        self.thumbnails = torch.zeros(size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device, dtype=torch.uint8)
        self.firsts = np.zeros(size, np.int64)
        self.text = torch.zeros(size, PARAPHRASES, LENGTHS[-1], LLAMA_WIDTH, device=device, dtype=half)
        self.pooled = torch.zeros(size, PARAPHRASES, CLIP_WIDTH, device=device, dtype=half)
        self.lengths = np.zeros((size, PARAPHRASES), np.int64)
        self.filled = 0
        self.next = 0

    def slots(self, count: int) -> np.ndarray:
        """Where the next `count` clips go: into free places first, then over the oldest."""
        size = len(self.firsts)
        chosen = (self.next + np.arange(count)) % size
        self.next = int((self.next + count) % size)
        self.filled = min(size, self.filled + count)
        return chosen


class LatentPool:
    """Clips as latents, and batches of sections cut from them.

    Args:
        vae: trained, on the device.
        words: the tokenizers.
        encoders: trained, on the device.
        size: clips kept.
        seed: of pictures, motions, captions and choices.
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
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.vae = in_quicker_layout(arranged(copy.deepcopy(vae)).to(half), device)
        self.words, self.encoders, self.device = words, encoders, device
        self.pictures = PictureSource(device, seed)
        self.rng = random.Random(seed)
        self.numpy = np.random.default_rng(seed)
        self.shelves = [Shelf(max(CHUNK, int(size * part)), *shape, device) for shape, part in SHAPES.items()]
        self.made = 0

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return all(shelf.filled == len(shelf.firsts) for shelf in self.shelves)

    @torch.no_grad()
    def renew(self) -> None:
        """Make a chunk of clips: for the emptiest shelf or, when all are full, for one drawn by its part."""
        if self.full:
            shelf = self.rng.choices(self.shelves, list(SHAPES.values()))[0]
        else:
            shelf = min(self.shelves, key=lambda shelf: shelf.filled / len(shelf.firsts))
        self._fill(shelf, shelf.slots(CHUNK))
        self.made += CHUNK

    def _fill(self, shelf: Shelf, slots: np.ndarray) -> None:
        motions = [draw_motion(self.rng) for _ in slots]
        later = segment_starts()[1:]
        firsts = np.array([0 if self.rng.random() < FROM_START else self.rng.choice(later) for _ in slots])
        starts, segments, thumbnails = make_latents(self.vae, self.pictures, motions, firsts, shelf.height, shelf.width)
        where = torch.from_numpy(slots).to(self.device)
        shelf.starts[where] = starts.to(shelf.starts.dtype)
        shelf.segments[where] = segments.to(shelf.segments.dtype)
        shelf.thumbnails[where] = thumbnails
        shelf.firsts[slots] = firsts
        self._caption(shelf, slots, motions)

    def _caption(self, shelf: Shelf, slots: np.ndarray, motions: list[Motion]) -> None:
        drawn = [self._paraphrases(motion) for motion in motions]
        llama, lengths = padded([ids for pair in drawn for ids in pair[0]], self.words.suffix[-1])
        clip, _ = padded([ids for pair in drawn for ids in pair[1]], self.words.clip.eos_token_id)
        where = torch.from_numpy(slots).to(self.device)
        with autocast(self.device):
            states, pooled = self.encoders.states(llama.to(self.device)), self.encoders.pooled(clip.to(self.device))
        shelf.text[where, :, : states.shape[1]] = states.to(shelf.text.dtype).unflatten(0, (-1, PARAPHRASES))
        shelf.pooled[where] = pooled.to(shelf.pooled.dtype).unflatten(0, (-1, PARAPHRASES))
        shelf.lengths[slots] = lengths.view(-1, PARAPHRASES).numpy()

    def _paraphrases(self, motion: Motion) -> tuple[list[list[int]], list[list[int]]]:
        """Tokens of some captions of LENGTHS."""
        llama: list[list[int]] = []
        clip: list[list[int]] = []
        while len(llama) < PARAPHRASES:
            texts = [caption(motion, self.rng) for _ in range(PARAPHRASES - len(llama))]
            for a, b in zip(self.words.llama_ids(texts), self.words.clip_ids(texts), strict=True):
                if len(a) in LENGTHS:
                    llama.append(a)
                    clip.append(b)
        return llama, clip

    def batch(self, count: int) -> Batch:
        """Draw sections: of one shape and one text length, of both variants, from random clips."""
        parts = [part * (shelf.filled > 0) for part, shelf in zip(SHAPES.values(), self.shelves, strict=True)]
        shelf = self.rng.choices(self.shelves, parts)[0]
        lengths = shelf.lengths[: shelf.filled]
        length = lengths[self.rng.randrange(shelf.filled), self.rng.randrange(PARAPHRASES)]
        clips, paraphrases = np.nonzero(lengths == length)
        chosen = self.numpy.integers(len(clips), size=count)
        return self._cut(shelf, clips[chosen], paraphrases[chosen], int(length))

    def _cut(self, shelf: Shelf, clips: np.ndarray, paraphrases: np.ndarray, length: int) -> Batch:
        chosen = [
            draw_pattern("original" if self.rng.random() < 0.5 else "f1", int(shelf.firsts[clip]), self.rng)
            for clip in clips
        ]
        numbers = {name: torch.from_numpy(value).to(self.device) for name, value in stacked(chosen).items()}
        rows = torch.from_numpy(clips).to(self.device)
        said = torch.from_numpy(paraphrases).to(self.device)
        parts = {name: _gather(shelf, rows, numbers[name]) for name in ("target", "clean", "clean_2x", "clean_4x")}
        return Batch(
            **parts,
            movable={name: numbers[name] >= 0 for name in ("clean", "clean_2x", "clean_4x")},
            times={name: numbers[f"{name}_times"] for name in parts},
            text=shelf.text[rows, said, :length].float(),
            pooled=shelf.pooled[rows, said].float(),
            thumbnails=shelf.thumbnails[rows].float() / 127.5 - 1,
        )


def _gather(shelf: Shelf, rows: Tensor, numbers: Tensor) -> Tensor:
    """Latents (B, 16, n, H, W) float32 by their places (B, n) in segments, NOTHING and START included."""
    found = shelf.segments[rows[:, None], numbers.clamp(min=0)].float()
    found = torch.where((numbers == START)[..., None, None, None], shelf.starts[rows][:, None].float(), found)
    return found.masked_fill((numbers == NOTHING)[..., None, None, None], 0.0).transpose(1, 2)


@torch.no_grad()
def make_latents(
    vae: AutoencoderKLHunyuanVideo,
    pictures: PictureSource,
    motions: list[Motion],
    firsts: np.ndarray,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Start latents (B, 16, H, W), segments (B, 32, 16, H, W) from sections `firsts` on, thumbnails (B, 3, 64, 64)."""
    device = pictures.device
    sources = pictures.sample(len(motions), 2 * height, 2 * width)
    still = render(sources, motions, torch.zeros(len(motions), 1, device=device))
    # One latent more in front: a first latent is of another kind, a single frame.
    begin = torch.from_numpy(4 * (LATENT_WINDOW * firsts - 1)).to(device)
    times = begin[:, None] + torch.arange(4 * SEGMENT_LATENTS + 1, device=device)
    frames = render(sources, motions, times.float())
    starts = encode(vae, (still * 2 - 1).to(vae.dtype))[:, :, 0]
    segments = encode(vae, (frames * 2 - 1).to(vae.dtype))[:, :, 1:].transpose(1, 2)
    return starts, segments, thumbnails_of(still[:, :, 0])


def thumbnails_of(stills: Tensor) -> Tensor:
    """Pictures (B, 3, H, W), 0..1, as the image encoder's processor scales them: (B, 3, 64, 64) uint8."""
    small = F.interpolate(stills, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True, align_corners=False)
    return (small.clamp(0, 1) * 255).round().to(torch.uint8)


@torch.no_grad()
def in_quicker_layout(vae: AutoencoderKLHunyuanVideo, device: torch.device) -> AutoencoderKLHunyuanVideo:
    """The autoencoder with its kernels in the order, channels last or not, in which this GPU encodes faster."""
    if device.type != "cuda":
        return vae
    clips = torch.randn(CHUNK, 3, 4 * SEGMENT_LATENTS + 1, 128, 128, device=device, dtype=torch.bfloat16)
    seconds = {}
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        vae.to(memory_format=layout)
        for _ in range(3):
            sync(device)
            started = time.monotonic()
            encode(vae, clips)
            sync(device)
            seconds[layout] = time.monotonic() - started
    say(f"seconds for {CHUNK} clips: {seconds}")
    return vae.to(memory_format=min(seconds, key=seconds.__getitem__))
