"""A store of clips as latents, made by the trained autoencoder and renewed while the transformer trains."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from diffusers_helper.core.plan import LATENT_WINDOW
from training.batch import Batch
from training.captions import Subject, caption
from training.clips import render
from training.family import CLIP_WIDTH, IMAGE_SIZE, LLAMA_WIDTH
from training.gaps import Gap, draw_in_gap
from training.latents import encode
from training.loop import autocast, say, sync
from training.motions import Motion
from training.outlines import PARAPHRASES, SHARES, Outline, draw_outlines
from training.pictures import PictureSource
from training.quick_vae import arranged
from training.sections import (
    BORDER_PICTURE,
    BORDERS,
    KINDS,
    NOTHING,
    SEGMENT_LATENTS,
    START_PICTURE,
    Pattern,
    draw_directed,
    draw_pattern,
    draw_phase,
    stacked,
)
from training.texts import TextEncoders, Tokenizers, padded

SHAPES = {(128, 128): 0.3, (112, 144): 0.2, (144, 112): 0.12, (96, 160): 0.24, (160, 96): 0.14}
"""Pictures' heights and widths, and their parts of the store."""
LENGTHS = (3, 4, 5, 7, 9, 11, 14)
"""Tokens that a caption may have, the template's end counted in: every length is a CUDA graph of its own."""
CHUNK = 16
"""Clips rendered and encoded at a time."""


class Shelf:
    """The clips of one picture shape.

    `borders` are the pictures on section borders, each encoded alone, `thumbnails` the start picture and those.
    `changes` are sections at which motions change, 0 for none; the second half of such a clip's captions says what
    happens from there on. `gaps` are what their sections lead through, None for nothing.
    """

    def __init__(self, size: int, height: int, width: int, device: torch.device) -> None:
        latent = (16, height // 8, width // 8)
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.height, self.width = height, width
        self.starts = torch.zeros(size, *latent, device=device, dtype=half)
        self.segments = torch.zeros(size, SEGMENT_LATENTS, *latent, device=device, dtype=half)
        self.borders = torch.zeros(size, BORDERS, *latent, device=device, dtype=half)
        self.thumbnails = torch.zeros(size, 1 + BORDERS, 3, IMAGE_SIZE, IMAGE_SIZE, device=device, dtype=torch.uint8)
        self.firsts = np.zeros(size, np.int64)
        self.changes = np.zeros(size, np.int64)
        self.gaps: list[Gap | None] = [None] * size
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

    Attributes:
        shares: SHARES, which may be set before clips are made.
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
        self.vae = quick_encoder(vae, device)
        self.words, self.encoders, self.device = words, encoders, device
        self.shares = dict(SHARES)
        self.pictures = PictureSource(device, seed)
        self.rng = random.Random(seed)
        self.numpy = np.random.default_rng(seed)
        self.shelves = [Shelf(max(CHUNK, int(size * part)), *shape, device) for shape, part in self.shapes.items()]
        self.made = 0

    @property
    def shapes(self) -> Mapping[tuple[int, int], float]:
        """Pictures' heights and widths, and their parts of the store."""
        return SHAPES

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return all(shelf.filled == len(shelf.firsts) for shelf in self.shelves)

    @torch.no_grad()
    def renew(self) -> None:
        """Make a chunk of clips: for the emptiest shelf or, when all are full, for one drawn by its part."""
        if self.full:
            shelf = self.rng.choices(self.shelves, list(self.shapes.values()))[0]
        else:
            shelf = min(self.shelves, key=lambda shelf: shelf.filled / len(shelf.firsts))
        self._fill(shelf, shelf.slots(CHUNK))
        self.made += CHUNK

    def _fill(self, shelf: Shelf, slots: np.ndarray) -> None:
        outlines = self.draw(len(slots))
        motions = [outline.motion for outline in outlines]
        shelf.firsts[slots] = firsts = np.array([outline.first for outline in outlines])
        shelf.changes[slots] = [outline.change for outline in outlines]
        for slot, outline in zip(slots, outlines, strict=True):
            shelf.gaps[slot] = outline.gap
        joints = [outline.gap.joint for outline in outlines if outline.gap and outline.gap.joined]
        made = make_latents(self.vae, self.pictures, motions, firsts, (shelf.height, shelf.width), np.array(joints))
        where = torch.from_numpy(slots).to(self.device)
        for name in ("starts", "segments", "borders", "thumbnails"):
            store = getattr(shelf, name)
            store[where] = getattr(made, name).to(store.dtype)
        self._caption(shelf, slots, [outline.said for outline in outlines])

    def draw(self, count: int) -> list[Outline]:
        """Draw what clips that are made together are about."""
        return draw_outlines(count, self.shares, self.rng)

    def _caption(self, shelf: Shelf, slots: np.ndarray, said: list[list[Motion]]) -> None:
        texts = captions_of([motion for some in said for motion in some], LENGTHS, self.words, self.rng)
        states, pooled, lengths = encoded(texts, self.words, self.encoders, self.device)
        where = torch.from_numpy(slots).to(self.device)
        shelf.text[where, :, : states.shape[1]] = states.to(shelf.text.dtype).unflatten(0, (-1, PARAPHRASES))
        shelf.pooled[where] = pooled.to(shelf.pooled.dtype).unflatten(0, (-1, PARAPHRASES))
        shelf.lengths[slots] = lengths.view(-1, PARAPHRASES).numpy()

    def batch(self, count: int) -> Batch:
        """Draw sections: of one shape and one text length, of both variants, from random clips."""
        parts = [part * (shelf.filled > 0) for part, shelf in zip(self.shapes.values(), self.shelves, strict=True)]
        shelf = self.rng.choices(self.shelves, parts)[0]
        lengths = shelf.lengths[: shelf.filled]
        length = lengths[self.rng.randrange(shelf.filled), self.rng.randrange(PARAPHRASES)]
        clips, paraphrases = np.nonzero(lengths == length)
        chosen = self.numpy.integers(len(clips), size=count)
        return self._cut(shelf, clips[chosen], paraphrases[chosen], int(length))

    def _cut(self, shelf: Shelf, clips: np.ndarray, paraphrases: np.ndarray, length: int) -> Batch:
        chosen = [self._pattern(shelf, clip, said) for clip, said in zip(clips, paraphrases, strict=True)]
        numbers = {name: torch.from_numpy(value).to(self.device) for name, value in stacked(chosen).items()}
        rows = torch.from_numpy(clips).to(self.device)
        said = torch.from_numpy(paraphrases).to(self.device)
        parts = {name: _gather(shelf, rows, numbers[name]) for name in ("target", "clean", "clean_2x", "clean_4x")}
        kind = numbers["kind"]
        changed = torch.from_numpy(shelf.changes[clips] > 0).to(self.device)
        return Batch(
            **parts,
            movable={name: numbers[name] >= 0 for name in ("clean", "clean_2x", "clean_4x")},
            times={name: numbers[f"{name}_times"] for name in parts},
            text=shelf.text[rows, said, :length].float(),
            pooled=shelf.pooled[rows, said].float(),
            thumbnails=shelf.thumbnails[rows, START_PICTURE - numbers["seen"]].float() / 127.5 - 1,
            kind=torch.where(changed, KINDS.index("change"), kind),
        )

    def _pattern(self, shelf: Shelf, clip: int, said: int) -> Pattern:
        """A section of a clip that caption `said` of it may speak of."""
        first, change, gap = int(shelf.firsts[clip]), int(shelf.changes[clip]), shelf.gaps[clip]
        if gap:
            return draw_in_gap(gap, self.rng)
        if change:
            return draw_phase(first, change, bool(said >= PARAPHRASES // 2), self.rng)
        if self.rng.random() < self.shares["directed"]:
            return draw_directed(first, self.rng)
        return draw_pattern("original" if self.rng.random() < 0.5 else "f1", first, self.rng)


def captions_of(
    subjects: Sequence[Subject], lengths: tuple[int, ...], words: Tokenizers, rng: random.Random
) -> tuple[list[list[int]], list[list[int]]]:
    """A caption for each subject, of one of `lengths` tokens: Llama's and CLIP's tokens."""
    llama: list[list[int]] = [[] for _ in subjects]
    clip: list[list[int]] = [[] for _ in subjects]
    missing = list(range(len(subjects)))
    while missing:
        texts = [caption(subjects[index], rng) for index in missing]
        for index, a, b in zip(missing, words.llama_ids(texts), words.clip_ids(texts), strict=True):
            if len(a) in lengths:
                llama[index], clip[index] = a, b
        missing = [index for index in missing if not llama[index]]
    return llama, clip


@torch.no_grad()
def encoded(
    ids: tuple[list[list[int]], list[list[int]]], words: Tokenizers, encoders: TextEncoders, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """States (B, L, width), pooled vectors (B, width) and lengths (B,) of captions as tokens."""
    llama, lengths = padded(ids[0], words.suffix[-1])
    clip, _ = padded(ids[1], words.clip.eos_token_id)
    with autocast(device):
        return encoders.states(llama.to(device)), encoders.pooled(clip.to(device)), lengths


def _gather(shelf: Shelf, rows: Tensor, numbers: Tensor) -> Tensor:
    """Latents (B, 16, n, H, W) float32 by their places (B, n) in segments, zeros and pictures included."""
    rows, wide = rows[:, None], numbers[..., None, None, None]
    found = shelf.segments[rows, numbers.clamp(min=0)].float()
    found = torch.where(wide == START_PICTURE, shelf.starts[rows].float(), found)
    borders = shelf.borders[rows, (BORDER_PICTURE - numbers).clamp(0, BORDERS - 1)].float()
    found = torch.where(wide <= BORDER_PICTURE, borders, found)
    return found.masked_fill(wide == NOTHING, 0.0).transpose(1, 2)


@dataclass(frozen=True)
class Latents:
    """What is made of clips: see `Shelf`."""

    starts: Tensor
    segments: Tensor
    borders: Tensor
    thumbnails: Tensor


@torch.no_grad()
def make_latents(
    vae: AutoencoderKLHunyuanVideo,
    pictures: PictureSource,
    motions: list[Motion],
    firsts: np.ndarray,
    size: tuple[int, int],
    joints: np.ndarray,
) -> Latents:
    """Start latents (B, 16, H, W), segments (B, 32, 16, H, W) from sections `firsts` on, and what lies beside them.

    `size` is height and width. From latents `joints` on, one after a border, segments are encoded by themselves;
    none where it is empty.
    """
    (height, width), device, count = size, pictures.device, len(motions)
    sources = pictures.sample(count, 2 * height, 2 * width)
    begin = 4 * LATENT_WINDOW * torch.from_numpy(firsts).to(device)[:, None]
    borders = begin + 4 * LATENT_WINDOW * torch.arange(BORDERS, device=device)
    stills = render(sources, motions, torch.cat([torch.zeros_like(begin), borders], dim=1).float()).transpose(1, 2)
    # One latent more in front: a first latent is of another kind, a single frame.
    times = begin - 4 + torch.arange(4 * SEGMENT_LATENTS + 1, device=device)
    frames = render(sources, motions, times.float())
    alone = encode(vae, (stills.flatten(0, 1)[:, :, None] * 2 - 1).to(vae.dtype))[:, :, 0].unflatten(0, (count, -1))
    segments = encode(vae, (frames * 2 - 1).to(vae.dtype))[:, :, 1:].transpose(1, 2)
    if len(joints):
        alone_from = torch.from_numpy(joints).to(device)[:, None]
        times = begin + 4 * (alone_from - 1) + 1 + torch.arange(4 * SEGMENT_LATENTS + 1, device=device)
        rest = encode(vae, (render(sources, motions, times.float()) * 2 - 1).to(vae.dtype)).transpose(1, 2)
        number = torch.arange(SEGMENT_LATENTS, device=device) - alone_from
        rows = torch.arange(count, device=device)[:, None]
        segments = torch.where((number < 0)[..., None, None, None], segments, rest[rows, number.clamp(min=0)])
    thumbnails = thumbnails_of(stills.flatten(0, 1)).unflatten(0, (count, -1))
    return Latents(alone[:, 0], segments, alone[:, 1:], thumbnails)


def thumbnails_of(stills: Tensor) -> Tensor:
    """Pictures (B, 3, H, W), 0..1, as the image encoder's processor scales them: (B, 3, 64, 64) uint8."""
    small = F.interpolate(stills, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True, align_corners=False)
    return (small.clamp(0, 1) * 255).round().to(torch.uint8)


def quick_encoder(vae: AutoencoderKLHunyuanVideo, device: torch.device) -> AutoencoderKLHunyuanVideo:
    """A copy of the autoencoder that encodes as fast as it can on the device."""
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    return in_quicker_layout(arranged(copy.deepcopy(vae)).to(half), device)


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
