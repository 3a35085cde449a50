"""Trains the autoencoder: reconstruction of clips and stills with a small KL, then normalised latents."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn

from training.clips import render
from training.family import build_vae
from training.graphs import GraphedStep, set_rates
from training.latents import decode, normalise, posterior
from training.loop import Average, Budget, Run, pick_device, sync
from training.motions import draw_motion
from training.muon import muon_and_adam
from training.pictures import HELD_OUT_PHOTOS, PictureSource
from training.quick_vae import QuickVae

NAME = "vae"
CLIP_FRAMES = 17
CROP, FULL = 64, 128
BATCHES = {(1, CROP): 48, (CLIP_FRAMES, CROP): 8, (1, FULL): 16, (CLIP_FRAMES, FULL): 3}
"""Samples of a step, by frames and side."""
BANKS = {(1, CROP): 16_000, (CLIP_FRAMES, CROP): 1600, (1, FULL): 4000, (CLIP_FRAMES, FULL): 400}
"""Samples that are kept and drawn from."""
BANK_PIXELS = 2**20
"""Drawn at a time."""
RENEW_SHARE = 0.2
"""Part of the time that goes into new samples."""
FULL_FROM = 0.75
"""From this part of the training on, whole pictures instead of crops."""
CLIPS_FROM = 0.4
"""Until this part, seven steps of eight are stills: they show more pictures for the same work."""
MUON_RATE, ADAM_RATE = 2e-3, 1e-3
DECAY_FROM = 0.4
WEIGHTS = {"mse": 6.0, "l1": 0.5, "slope": 0.3, "flicker": 0.3, "kl": 2e-3}


class ClipSource:
    """Draws clips on a device: random pictures, motions and moments."""

    def __init__(self, device: torch.device, seed: int, photos: dict[str, tuple[str, ...]] | None = None) -> None:
        self.pictures = PictureSource(device, seed, photos)
        self.rng = random.Random(seed)
        self.device = device

    def sample(self, count: int, frames: int, height: int, width: int) -> Tensor:
        """`count` clips (count, 3, frames, height, width), -1..1; half of them begin at the start picture."""
        pictures = self._pieces(count, 2 * height, 2 * width)
        motions = [draw_motion(self.rng) for _ in range(count)]
        starts = torch.tensor([self.rng.choice((0, self.rng.randrange(90))) for _ in range(count)])
        times = (starts[:, None] + torch.arange(frames)).float().to(self.device)
        return render(pictures, motions, times) * 2 - 1

    def _pieces(self, count: int, height: int, width: int) -> Tensor:
        """Pictures, or for smaller sizes their parts: details are as large as in whole pictures."""
        across = max(1, 2 * FULL // max(height, width))
        whole = self.pictures.sample(-(-count // across**2), height * across, width * across)
        rows = whole.unflatten(-2, (across, height)).unflatten(-1, (across, width))
        return rows.movedim((2, 4), (1, 2)).flatten(0, 2)[:count]


class ClipBank:
    """Samples to draw batches from, renewed little by little: drawing them takes longer than training on them.

    Args:
        source: draws them.
        size: kept at most.
        frames: of a sample.
        side: of its pictures.
    """

    def __init__(self, source: ClipSource, size: int, frames: int, side: int) -> None:
        self.source, self.key = source, (frames, side)
        dtype = torch.float16 if source.device.type == "cuda" else torch.float32
        self.clips = torch.empty(size, 3, frames, side, side, dtype=dtype, device=source.device)
        self.filled = self.next = 0

    def batch(self, count: int) -> Tensor:
        """Draw `count` samples, half of such batches mirrored; until the bank is full, it grows first."""
        if self.filled < len(self.clips):
            self.renew()
        clips = self.clips[torch.randint(self.filled, (count,), device=self.source.device)].float()
        return clips.flip(-1) if self.source.rng.random() < 0.5 else clips

    def renew(self) -> None:
        """Put new samples in place of the oldest."""
        frames, side = self.key
        count = min(len(self.clips) - self.next, max(1, BANK_PIXELS // (frames * side * side)))
        self.clips[self.next : self.next + count] = self.source.sample(count, frames, side, side).to(self.clips.dtype)
        self.filled = max(self.filled, self.next + count)
        self.next = (self.next + count) % len(self.clips)


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
    settings = {"seed": seed, "scale": scale, "rates": [MUON_RATE, ADAM_RATE], "weights": WEIGHTS}
    run = Run(folder, NAME, budget, mirror, settings)
    if not run.resume(model):
        begin_nearly_linear(model)
    call_seed = seed + 1000 * len(run.record["calls"])
    torch.manual_seed(call_seed)
    source = ClipSource(device, call_seed)
    torch.backends.cudnn.benchmark = True
    average = Average(model, 0.999)
    optimizers = _optimizers(model)
    quick = QuickVae(model, torch.bfloat16 if device.type == "cuda" else torch.float32)
    step = GraphedStep(
        lambda inputs, first: _losses(quick, inputs["clips"], first), list(model.parameters()), optimizers
    )
    banks = {
        (frames, side): ClipBank(source, int(size * scale) + 1, frames, side) for (frames, side), size in BANKS.items()
    }
    renewing = 0.0
    while not run.over:
        set_rates(optimizers, run.rate(DECAY_FROM))
        side = CROP if run.fraction < FULL_FROM else FULL
        still = run.steps % 8 > 0 if run.fraction < CLIPS_FROM else run.steps % 2 == 0
        bank = banks[1 if still else CLIP_FRAMES, side]
        clips = bank.batch(max(1, int(BATCHES[bank.key] * scale)))
        # A piece in the middle of a video begins with a latent of four frames, and shows only the last of them.
        first = source.rng.randint(0, min(1, clips.shape[2] - 1))
        losses = step({"clips": clips}, first)
        average.update()
        run.save_now_and_then(model, average)
        run.step(losses)
        if run.steps % 16 == 0 and renewing < RENEW_SHARE * run.elapsed:
            before = run.elapsed
            bank.renew()
            sync(device)
            renewing += run.elapsed - before

    average.swap()
    torch.backends.cudnn.benchmark = False  # the shapes of what follows come once
    _normalise_latents(model, source, device, scale)
    for key, value in evaluate(model, device, clips=max(2, int(24 * scale))).items():
        run.note(key, value)
    run.save(model.state_dict())
    return run


@torch.no_grad()
def begin_nearly_linear(model: AutoencoderKLHunyuanVideo) -> None:
    """Let residual branches add nothing at first, and all else keep lengths: the last tap in time, orthogonal in space.

    So the first thing learnt is what principal components do, and what is not linear comes on top of that.
    """
    for name, weight in model.named_parameters():
        if weight.ndim == 5:
            nn.init.zeros_(weight)
            if not name.endswith("conv2.conv.weight"):
                weight[:, :, -1].copy_(nn.init.orthogonal_(torch.empty_like(weight[:, :, -1])))


def _optimizers(model: AutoencoderKLHunyuanVideo) -> list[torch.optim.Optimizer]:
    """Muon for kernels between features, AdamW for the ends, biases and norms."""
    kernels, others = [], []
    for parameter in model.parameters():
        (kernels if parameter.ndim > 1 and min(parameter.shape[:2]) > 3 else others).append(parameter)
    return muon_and_adam(kernels, others, (MUON_RATE, ADAM_RATE), betas=(0.9, 0.99), momentum=0.9)


def _losses(model: QuickVae, clips: Tensor, first: int) -> dict[str, Tensor]:
    """Losses of clips (B, 3, T, H, W): all is encoded, and decoded from latent `first` on."""
    mean, std, out = model(clips, first)
    error = out - clips[:, :, 4 * first : 4 * first + out.shape[2]]
    factor = model.scaling_factor

    parts = {
        "mse": error.square().mean(),
        "l1": error.abs().mean(),
        "slope": error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean(),
        "flicker": error.diff(dim=2).abs().mean() if error.shape[2] > 1 else error.new_zeros(()),
        "kl": _kl(mean * factor, std * factor),
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
