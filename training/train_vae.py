"""Trains the autoencoder: reconstruction of clips and stills with a small KL, then normalised latents."""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from training.clips import render
from training.family import build_vae
from training.latents import decode, normalise, posterior
from training.loop import Average, Budget, Run, autocast, pick_device, say, sync
from training.motions import draw_motion
from training.pictures import HELD_OUT_PHOTOS, PictureSource

NAME = "vae"
CLIP_FRAMES = 17
CROP, CROP_CLIPS, CROP_STILLS = 64, 32, 256
FULL, FULL_CLIPS, FULL_STILLS = 128, 10, 64
FULL_FROM = 0.6
"""From this part of the training on, whole pictures instead of crops."""
CLIPS_FROM = 0.25
"""Until this part, four steps of five are stills: they show more pictures for the same work."""
RATE = 1.5e-3
WEIGHTS = {"mse": 6.0, "l1": 0.5, "slope": 0.3, "flicker": 0.3, "kl": 5e-4}


class ClipSource:
    """Draws clips on a device: random pictures, motions and moments."""

    def __init__(self, device: torch.device, seed: int, photos: dict[str, tuple[str, ...]] | None = None) -> None:
        self.pictures = PictureSource(device, seed, photos)
        self.rng = random.Random(seed)
        self.device = device

    def sample(self, count: int, frames: int, height: int, width: int) -> Tensor:
        """`count` clips (count, 3, frames, height, width), -1..1; half of them begin at the start picture."""
        pictures = self.pictures.sample(count, 2 * height, 2 * width)
        motions = [draw_motion(self.rng) for _ in range(count)]
        starts = torch.tensor([self.rng.choice((0, self.rng.randrange(90))) for _ in range(count)])
        times = (starts[:, None] + torch.arange(frames)).float().to(self.device)
        return render(pictures, motions, times) * 2 - 1


def train_vae(
    folder: Path,
    budget: Budget,
    *,
    mirror: Path | None = None,
    seed: int = 0,
    device_name: str | None = None,
    scale: float = 1.0,
) -> Run:
    """Train, or go on training, the autoencoder in `folder`; `scale` below 1 shrinks the batches, for trials."""
    device = pick_device(device_name)
    model = build_vae().to(device)
    run = Run(folder, NAME, budget, mirror, {"seed": seed, "scale": scale, "rate": RATE, "weights": WEIGHTS})
    run.resume(model)
    call_seed = seed + 1000 * len(run.record["calls"])
    torch.manual_seed(call_seed)
    source = ClipSource(device, call_seed)
    layout = _faster_layout(model, device)
    model = model.to(memory_format=layout)
    average = Average(model, 0.998)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)

    while not run.over:
        for group in optimizer.param_groups:
            group["lr"] = RATE * run.rate()
        clips = _batch(source, run, scale).contiguous(memory_format=layout)
        losses = _losses(model, clips, device, source.rng)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update()
        run.save_now_and_then(model, average)
        run.step(losses)

    average.swap()
    _normalise_latents(model, source, device, scale)
    for key, value in evaluate(model, device, clips=max(2, int(24 * scale))).items():
        run.note(key, value)
    run.save(model.state_dict())
    return run


def _batch(source: ClipSource, run: Run, scale: float) -> Tensor:
    """Stills and clips in turn; crops at first, whole pictures in the end."""
    still = run.steps % 5 > 0 if run.fraction < CLIPS_FROM else run.steps % 3 == 0
    if run.fraction < FULL_FROM:
        count, side = (CROP_STILLS if still else CROP_CLIPS), CROP
    else:
        count, side = (FULL_STILLS if still else FULL_CLIPS), FULL
    return source.sample(max(1, int(count * scale)), 1 if still else CLIP_FRAMES, side, side)


def _losses(
    model: AutoencoderKLHunyuanVideo, clips: Tensor, device: torch.device, rng: random.Random
) -> dict[str, Tensor]:
    """Losses of clips (B, 3, T, H, W): all is encoded, and decoded from the first latent or from the second.

    A piece in the middle of a video begins with a latent of four frames, and shows only the last of them.
    """
    with autocast(device):
        mean, logvar = posterior(model, clips)
        std = torch.exp(0.5 * logvar)
        latents = mean + std * torch.randn_like(mean)
        first = rng.randint(0, min(1, latents.shape[2] - 1))
        out = decode(model, latents[:, :, first:]).float()
    error = out - clips[:, :, 4 * first : 4 * first + out.shape[2]]

    parts = {
        "mse": error.square().mean(),
        "l1": error.abs().mean(),
        "slope": error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean(),
        "flicker": error.diff(dim=2).abs().mean() if error.shape[2] > 1 else error.new_zeros(()),
        "kl": _kl(mean * model.config.scaling_factor, std * model.config.scaling_factor),
    }
    psnr = -10 * torch.log10(parts["mse"].detach() / 4)
    return {
        "loss": sum((WEIGHTS[name] * value for name, value in parts.items()), error.new_zeros(())),
        "psnr_clips" if out.shape[2] > 1 else "psnr_stills": psnr,
        "kl": parts["kl"],
        "noise": (std.mean((0, 2, 3, 4)) / mean.std((0, 2, 3, 4)).clamp(min=1e-6)).mean(),
    }


def _kl(mean: Tensor, std: Tensor) -> Tensor:
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()


def _faster_layout(model: AutoencoderKLHunyuanVideo, device: torch.device) -> torch.memory_format:
    """The memory layout in which this device trains faster, by trying; the same for cuDNN's own search for kernels."""
    if device.type != "cuda":
        return torch.contiguous_format
    seconds = {}
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        for search in (False, True):
            torch.backends.cudnn.benchmark = search
            seconds[layout, search] = _step_seconds(model.to(memory_format=layout), layout, device)
            say(f"{layout}, search {search}: {1000 * seconds[layout, search]:.0f} ms for {CROP_CLIPS} clips of {CROP}")
    layout, torch.backends.cudnn.benchmark = min(seconds, key=seconds.__getitem__)
    return layout


def _step_seconds(model: AutoencoderKLHunyuanVideo, layout: torch.memory_format, device: torch.device) -> float:
    """Seconds of a training step on clips, once warm."""
    clips = torch.rand(CROP_CLIPS, 3, CLIP_FRAMES, CROP, CROP, device=device).contiguous(memory_format=layout)
    start = 0.0
    for turn in range(8):
        if turn == 4:
            sync(device)
            start = time.monotonic()
        _losses(model, clips, device, random.Random(turn % 2))["loss"].backward()
        model.zero_grad(set_to_none=True)
    sync(device)
    return (time.monotonic() - start) / 4


@torch.no_grad()
def _normalise_latents(
    model: AutoencoderKLHunyuanVideo, source: ClipSource, device: torch.device, scale: float
) -> None:
    """Give every latent channel mean 0 and, once scaled, variance 1 over clips and stills."""
    sums = torch.zeros(3, 16, dtype=torch.float64, device=device)
    for index in range(12):
        clips = source.sample(max(1, int(16 * scale)), 1 if index % 3 == 0 else CLIP_FRAMES, FULL, FULL)
        mean = posterior(model, clips)[0].double().movedim(1, 0).flatten(1)
        sums += torch.stack([torch.full_like(sums[0], mean.shape[1]), mean.sum(1), mean.square().sum(1)])
    count, total, squares = sums
    middle = total / count
    spread = (squares / count - middle.square()).clamp(min=1e-8).sqrt()
    normalise(model, middle.float(), spread.float())


@torch.no_grad()
def evaluate(model: AutoencoderKLHunyuanVideo, device: torch.device, clips: int = 24) -> dict[str, float]:
    """PSNR on held-out photographs and on clips of drawn pictures from a seed that training does not use."""
    photos = PictureSource(device, 1, HELD_OUT_PHOTOS)
    stills = torch.cat([photos.cut(index, 256, 256) for index in range(len(photos))])
    stills = F.avg_pool2d(stills, 2)[:, :, None] * 2 - 1
    source = ClipSource(device, 987_654)
    source.pictures.photo_share = 0.0
    moving = torch.cat([source.sample(2, CLIP_FRAMES, FULL, FULL) for _ in range(max(1, clips // 2))])
    found = {"psnr_held_out_photos": _psnr(model, stills), "psnr_held_out_clips": _psnr(model, moving)}
    found["latent_std"] = float(posterior(model, moving)[0].std()) * model.config.scaling_factor
    return {key: round(value, 3) for key, value in found.items()}


def _psnr(model: AutoencoderKLHunyuanVideo, clips: Tensor) -> float:
    """Mean over clips of the PSNR of posterior means, float32."""
    values = []
    for clip in clips.split(1):
        out = decode(model, posterior(model, clip)[0]).clamp(-1, 1)
        values.append(-10 * torch.log10((out - clip).square().mean() / 4))
    return float(torch.stack(values).mean())
