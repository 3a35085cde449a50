"""Looks at what the trained parts do together: does a short clip move as its prompt says?

The picture and the wanted motion are known, so the right clip is known too. A clip counts as right when, among the
right clips of all camera motions and stillness, the one that was asked for is nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from PIL import Image
from torch import Tensor, nn

from diffusers_helper.core.events import SectionDone
from diffusers_helper.core.planning import plan_video
from diffusers_helper.framepack.engine import Conditions, sample_video
from training.clips import render
from training.latents import decode, encode, posterior
from training.loop import autocast
from training.motions import Motion, camera_motion
from training.pictures import HELD_OUT_PHOTOS, PictureSource
from training.pool import thumbnails_of
from training.texts import TextEncoders, Tokenizers

PROMPTS = {
    "pan left": "The camera pans left.",
    "pan right": "the camera slowly moves to the right",
    "pan up": "tilt up",
    "pan down": "The camera pans down",
    "zoom in": "zoom in",
    "zoom out": "The camera slowly zooms out.",
    "turn clockwise": "the picture rotates clockwise",
    "turn counter-clockwise": "turn counter-clockwise",
    "brighter": "The scene gets brighter.",
    "darker": "fade to black",
    "still": "nothing moves",
}
SLOW = ("pan right", "zoom out")
"""Motions whose prompt above says "slowly"."""
SEED = 31337
SIDE = 128
SHOWN = (0, 24, 48, 72)


@dataclass(frozen=True)
class Parts:
    """Everything that makes a clip, on one device."""

    vae: AutoencoderKLHunyuanVideo
    words: Tokenizers
    encoders: TextEncoders
    transformer: nn.Module
    siglip: nn.Module
    device: torch.device


def wanted_motion(name: str) -> Motion:
    """The motion that PROMPTS' text for `name` asks for."""
    return Motion() if name == "still" else camera_motion(name, pace="slow" if name in SLOW else "normal")


def thumbnails(pictures: Tensor) -> Tensor:
    """Pictures at twice the clips' size, (B, 3, 2H, 2W), 0..1, as the image encoder sees them: (B, 3, 64, 64)."""
    return thumbnails_of(F.avg_pool2d(pictures, 2)).float() / 127.5 - 1


@torch.no_grad()
def conditions_of(parts: Parts, prompt: str, seen: Tensor) -> Conditions:
    """What steers sections that follow `prompt` and see the pictures `seen`, (B, 3, 64, 64)."""
    llama = torch.tensor(parts.words.llama_ids([prompt]), device=parts.device)
    clip = torch.tensor(parts.words.clip_ids([prompt]), device=parts.device)
    states = parts.encoders.states(llama)
    return Conditions(
        prompt_embeds=states,
        prompt_mask=torch.ones(states.shape[:2], dtype=torch.bool, device=parts.device),
        pooled=parts.encoders.pooled(clip),
        image_embeddings=parts.siglip(seen).last_hidden_state,
    )


@torch.no_grad()
def make_clips(parts: Parts, pictures: Tensor, prompt: str, variant: str, sections: int, steps: int) -> Tensor:
    """Sample clips from pictures (B, 3, 2H, 2W), 0..1, as the product does: (B, 3, T, H, W), 0..1.

    The clip is decoded in pieces of five latents without blending.
    """
    start = encode(parts.vae, F.avg_pool2d(pictures, 2)[:, :, None] * 2 - 1)
    conditions = conditions_of(parts, prompt, thumbnails(pictures))
    with autocast(parts.device):
        events = sample_video(
            plan_video(variant, sections),
            transformer=parts.transformer,
            vae=parts.vae,
            start_latent=start,
            conditions=conditions,
            seed=SEED,
            steps=steps,
            device=parts.device,
            dtype=torch.float32,
            decode=False,
        )
        done = {event.index: event.latents for event in events if isinstance(event, SectionDone)}
    order = sorted(done, reverse=variant == "original")
    latents = torch.cat([start, *(done[i].to(parts.device) for i in order)], dim=2)
    return decode_all(parts.vae, latents)


def decode_all(vae: AutoencoderKLHunyuanVideo, latents: Tensor) -> Tensor:
    """Pixels 0..1 of scaled latents (B, 16, n, H, W), piece by piece; each piece's first frame ends the one before."""
    raw = latents.float() / vae.config.scaling_factor
    frames = [decode(vae, raw[:, :, begin : begin + 5]) for begin in range(0, max(1, raw.shape[2] - 1), 4)]
    return (torch.cat([frames[0], *(f[:, :, 1:] for f in frames[1:])], dim=2) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def evaluate(parts: Parts, sheet: Path | None, steps: int = 16, drawn: int = 4) -> dict[str, object]:
    """Clips of two sections for every prompt and variant, on held-out photographs and new drawn pictures.

    Returns the part of clips that move as asked, by motion, and their PSNR against the right clip beside the
    autoencoder's own; writes a contact sheet.
    """
    pictures = new_pictures(parts.device, drawn)
    count = len(pictures)
    times = torch.arange(73, device=parts.device).float().expand(count, -1)
    truths = {name: render(pictures, [wanted_motion(name)] * count, times) for name in PROMPTS}
    right: dict[str, list[float]] = {}
    values: dict[str, list[float]] = {"original": [], "f1": [], "autoencoder": []}
    rows: list[Tensor] = []
    for name, prompt in PROMPTS.items():
        for variant in ("original", "f1"):
            clips = make_clips(parts, pictures, prompt, variant, 2, steps)
            errors = torch.stack([(clips - truth).square().mean((1, 2, 3, 4)) for truth in truths.values()])
            hits = errors.argmin(0) == list(PROMPTS).index(name)
            right.setdefault(name, []).extend(hits.float().tolist())
            values[variant] += psnr(clips, truths[name]).tolist()
            rows += [clips[i, :, SHOWN] for i in (0, count - 1)]
        again = decode_all(parts.vae, _encoded(parts, truths[name][:, :, :65]))
        values["autoencoder"] += psnr(again, truths[name][:, :, :65]).tolist()
    if sheet:
        save_sheet(rows, sheet)
    by_motion = {name: round(float(np.mean(hits)), 3) for name, hits in right.items()}
    return {
        "right": by_motion,
        "right_all": round(float(np.mean(list(by_motion.values()))), 3),
        "psnr": {name: round(float(np.mean(found)), 2) for name, found in values.items()},
        "steps": steps,
    }


def _encoded(parts: Parts, clips: Tensor) -> Tensor:
    return posterior(parts.vae, clips * 2 - 1)[0] * parts.vae.config.scaling_factor


def new_pictures(device: torch.device, drawn: int) -> Tensor:
    """Held-out photographs, then pictures drawn from a seed that training does not use: (n, 3, 256, 256)."""
    photos = PictureSource(device, 1, HELD_OUT_PHOTOS)
    cuts = [photos.cut(index, 2 * SIDE, 2 * SIDE) for index in range(len(photos))]
    source = PictureSource(device, 424_242, HELD_OUT_PHOTOS, photo_share=0.0)
    return torch.cat([*cuts, source.sample(drawn, 2 * SIDE, 2 * SIDE)])


def psnr(clips: Tensor, truth: Tensor) -> Tensor:
    """Of each clip (B, 3, T, H, W), 0..1."""
    return -10 * torch.log10((clips - truth).square().mean((1, 2, 3, 4)).clamp(min=1e-10))


def save_sheet(rows: list[Tensor], path: Path, across: int = 4) -> None:
    """Write rows of frames (3, T, H, W), 0..1, as one PNG, `across` rows side by side."""
    strips = [row.permute(2, 1, 3, 0).flatten(1, 2).float().cpu() for row in rows]
    strips += [torch.zeros_like(strips[0])] * (-len(strips) % across)
    lines = [torch.cat(strips[i : i + across], dim=1) for i in range(0, len(strips), across)]
    pixels = (torch.cat(lines) * 255).round().to(torch.uint8).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
