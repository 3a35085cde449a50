"""A store of clips as latents, made by the trained autoencoder and renewed while the transformer trains."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from diffusers_helper.framepack.planning import LATENT_WINDOW
from training.captions import caption
from training.clips import render
from training.family import IMAGE_SIZE
from training.latents import encode
from training.motions import Motion, draw_motion
from training.pictures import PictureSource
from training.quick_vae import arranged
from training.sections import NOTHING, SEGMENT_LATENTS, START, draw_pattern, segment_starts, stacked
from training.texts import Words, padded

SHAPES = {(128, 128): 0.5, (112, 144): 0.125, (144, 112): 0.125, (96, 160): 0.125, (160, 96): 0.125}
"""Pictures' heights and widths, and their parts of the store."""
FROM_START = 0.7
"""Part of the segments that begin at the start picture."""
PARAPHRASES = 4
MAX_TOKENS = 40
CHUNK = 8
"""Clips rendered and encoded at a time."""


@dataclass
class Batch:
    """Everything that one training step reads, on the device; B samples of one picture shape and one text length.

    Attributes:
        target: latents to sample, (B, 16, 9, H, W).
        clean, clean_2x, clean_4x: history (B, 16, n, H, W), and which of it may be disturbed, (B, n) each.
        times: time indices (B, n) by field.
        llama_ids, clip_ids: tokens (B, L).
        thumbnails: start pictures for the image encoder, (B, 3, 64, 64), -1..1.
    """

    target: Tensor
    clean: Tensor
    clean_2x: Tensor
    clean_4x: Tensor
    movable: dict[str, Tensor]
    times: dict[str, Tensor]
    llama_ids: Tensor
    clip_ids: Tensor
    thumbnails: Tensor


class Shelf:
    """The clips of one picture shape."""

    def __init__(self, size: int, height: int, width: int, words: Words, device: torch.device) -> None:
        latent = (16, height // 8, width // 8)
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.height, self.width = height, width
        self.starts = torch.zeros(size, *latent, device=device, dtype=half)
        self.segments = torch.zeros(size, SEGMENT_LATENTS, *latent, device=device, dtype=half)
        self.thumbnails = torch.zeros(size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device, dtype=torch.uint8)
        self.firsts = np.zeros(size, np.int64)
        self.llama_ids = torch.full((size, PARAPHRASES, MAX_TOKENS), words.suffix[-1])
        self.llama_lengths = np.zeros((size, PARAPHRASES), np.int64)
        self.clip_ids = torch.full((size, PARAPHRASES, MAX_TOKENS), words.clip.eos_token_id)
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
        size: clips kept.
        seed: of pictures, motions, captions and choices.
    """

    def __init__(
        self, vae: AutoencoderKLHunyuanVideo, words: Words, size: int, seed: int, device: torch.device
    ) -> None:
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.vae, self.words, self.device = arranged(copy.deepcopy(vae)).to(half), words, device
        self.pictures = PictureSource(device, seed)
        self.rng = random.Random(seed)
        self.numpy = np.random.default_rng(seed)
        self.shelves = [Shelf(max(CHUNK, int(size * part)), *shape, words, device) for shape, part in SHAPES.items()]
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
        for slot, motion in zip(slots, motions, strict=True):
            llama, clip = self._paraphrases(motion)
            ids, lengths = padded(llama, self.words.suffix[-1])
            shelf.llama_ids[slot, :, : ids.shape[1]] = ids
            shelf.llama_lengths[slot] = lengths
            ids, _ = padded(clip, self.words.clip.eos_token_id)
            shelf.clip_ids[slot] = self.words.clip.eos_token_id
            shelf.clip_ids[slot, :, : ids.shape[1]] = ids

    def _paraphrases(self, motion: Motion) -> tuple[list[list[int]], list[list[int]]]:
        """Tokens of some captions, none of them too long."""
        llama: list[list[int]] = []
        clip: list[list[int]] = []
        while len(llama) < PARAPHRASES:
            texts = [caption(motion, self.rng) for _ in range(PARAPHRASES - len(llama))]
            for a, b in zip(self.words.llama_ids(texts), self.words.clip_ids(texts), strict=True):
                if max(len(a), len(b)) <= MAX_TOKENS:
                    llama.append(a)
                    clip.append(b)
        return llama, clip

    def batch(self, count: int) -> Batch:
        """Draw sections: of one shape and one text length, of both variants, from random clips."""
        parts = [part * (shelf.filled > 0) for part, shelf in zip(SHAPES.values(), self.shelves, strict=True)]
        shelf = self.rng.choices(self.shelves, parts)[0]
        lengths = shelf.llama_lengths[: shelf.filled]
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
        clip_ids = shelf.clip_ids[clips, paraphrases]
        ends = (clip_ids == self.words.clip.eos_token_id).int().argmax(1)
        parts = {name: _gather(shelf, rows, numbers[name]) for name in ("target", "clean", "clean_2x", "clean_4x")}
        return Batch(
            **parts,
            movable={name: numbers[name] >= 0 for name in ("clean", "clean_2x", "clean_4x")},
            times={name: numbers[f"{name}_times"] for name in parts},
            llama_ids=shelf.llama_ids[clips, paraphrases, :length].to(self.device),
            clip_ids=clip_ids[:, : int(ends.max()) + 1].to(self.device),
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
    """Start latents (B, 16, H, W), segments (B, 40, 16, H, W) from sections `firsts` on, thumbnails (B, 3, 64, 64)."""
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
