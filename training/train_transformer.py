"""Trains the transformer by flow matching on sections of clips, for both variants at once.

The objective is what the sampler relies on: x_sigma = (1 - sigma) x0 + sigma noise, and the model predicts
noise - x0. Noise levels are drawn as the sampler's schedule spaces them. Sections, their history and time indices come
from the product's planners. History is disturbed with noise, so that a section does not take over every fault of the
ones before it.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn

from diffusers_helper.models.execution import Execution
from diffusers_helper.models.section_context import Conditioning
from diffusers_helper.pipelines.k_diffusion_hunyuan import flux_mu
from training.batch import Batch
from training.checkpoint import load_weights
from training.family import build_siglip, build_transformer, build_vae
from training.graphs import GraphedStep, HalfCopy, set_rates
from training.loop import Average, Budget, Run, pick_device, say, sync, tuned
from training.muon import muon_and_adam
from training.patches import with_matrices
from training.pool import LatentPool
from training.quick_kernels import QuickKernels
from training.sections import KINDS
from training.stills import StillPool
from training.texts import Tokenizers
from training.train_text import load_encoders
from training.train_vae import NAME as VAE_NAME

NAME = "transformer"
BATCH = 64
POOL = 12_000
FILL_SECONDS = 50.0
RENEW_SHARE = 0.18
"""Part of the time that goes into new clips once training has begun."""
STILLS = 4000
STILLS_EVERY = 12
"""One step in so many is of single frames."""
ADAM_RATE, MUON_RATE = 1e-3, 2e-3
GUIDANCE = 10.0
DISTURBED, DISTURBANCE = 0.6, 0.35
"""Part of the sections whose history is disturbed, and the largest amplitude of the noise."""
TINTED, TINT = 0.5, 0.1
"""Part of F1's sections whose history has another colour than its start picture, and how far at most."""


class TrainModel(nn.Module):
    """What is trained here: the transformer, of `sizes` where they are not its own, and the image encoder."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.transformer = build_transformer(**sizes)
        self.siglip = build_siglip()
        self.kernels = QuickKernels(compiled=False)
        with_matrices(self)
        _begin_as_identity(self.transformer)

    def forward(self, batch: Batch, noisy: Tensor, sigma: Tensor, guidance: Tensor) -> Tensor:
        """Predict the flow (B, 16, T, H, W), all in the dtype of `noisy`: the transformer's own steps, one by one."""
        model, dtype = self.transformer, noisy.dtype
        timesteps = (sigma * 1000)[None]
        text = batch.text.to(dtype)
        execution = Execution(_attention, self.kernels)
        words = model.refine_text(text, torch.ones_like(text[..., 0], dtype=torch.bool), timesteps, None, execution)
        picture = model.image_projection(self.siglip(batch.thumbnails.to(dtype)).last_hidden_state)
        modulations = model.modulations(timesteps, batch.pooled.to(dtype), guidance * 1000)
        history = model.pack(
            noisy,
            batch.times["target"],
            {
                4: (batch.clean_4x, batch.times["clean_4x"]),
                2: (batch.clean_2x, batch.times["clean_2x"]),
                1: (batch.clean, batch.times["clean"]),
            },
        )
        image = torch.cat([history.tokens, model.x_embedder(noisy)], dim=1)
        conditioning = Conditioning(modulations, words, picture, None)
        out = model.run_blocks(image, 0, conditioning, history.rope, execution)
        return model.project_out(out[:, history.tokens.shape[1] :], modulations.out[0], noisy.shape)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch chooses; its order of kernels suits training, where lengths change from batch to batch."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _begin_as_identity(model: nn.Module) -> None:
    """Zero every modulation and the last projection, so that blocks begin by passing their input on (AdaLN-Zero)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and (".norm" in name or name.startswith(("norm_out", "proj_out"))):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def train_transformer(
    folder: Path,
    budget: Budget,
    *,
    mirror: Path | None = None,
    seed: int = 0,
    device_name: str | None = None,
    batch: int = BATCH,
    pool_size: int = POOL,
    compiled: bool = True,
    fill_seconds: float = FILL_SECONDS,
    rate: float = 1.0,
    extras: float = 1.0,
) -> Run:
    """Train, or go on training, the transformer in `folder`, where the autoencoder and the text encoders must be.

    `rate` is a factor on the learning rates; weights that know much already are spoilt by the full ones. `extras` is
    one on the shares of all that is no plain section.
    """
    device = tuned(pick_device(device_name))
    settings = {"seed": seed, "batch": batch, "pool": pool_size, "adam": rate * ADAM_RATE, "muon": rate * MUON_RATE}
    settings["extras"] = extras
    run = Run(folder, NAME, budget, mirror, settings)
    torch.manual_seed(seed + len(run.record["calls"]))
    words = Tokenizers.load(folder)
    vae = load_vae(folder).to(device)
    encoders = load_encoders(folder, words).to(device).eval().requires_grad_(False)
    model = TrainModel().to(device)
    run.resume(model)
    model.train()
    run_seed = seed + 1000 * len(run.record["calls"])
    pool = LatentPool(vae, words, encoders, pool_size, run_seed, device)
    pool.shares = {name: extras * share for name, share in pool.shares.items()}
    fill(pool, run, fill_seconds)
    stills = StillPool(pool.vae, words, encoders, STILLS if pool_size == POOL else pool_size, run_seed, device)
    half = HalfCopy(model, torch.bfloat16 if device.type == "cuda" else torch.float32)
    half.module.kernels = QuickKernels(compiled=compiled and device.type == "cuda")
    average = Average(model, 0.999)
    optimizers = _optimizers(model)
    step = GraphedStep(lambda inputs, _: flow_losses(half.module, inputs), list(model.parameters()), optimizers, half)
    stills_every = round(STILLS_EVERY / extras)
    renewing = 0.0
    started = time.monotonic()
    while not run.over:
        set_rates(optimizers, rate * run.rate())
        inputs = (pool if run.steps % stills_every else stills).batch(batch).flat()
        losses = step(inputs | draw_levels(inputs["target"]))
        average.update()
        run.save_now_and_then(model, average)
        run.step(losses)
        if run.steps % 16 == 0 and renewing < RENEW_SHARE * (time.monotonic() - started):
            sync(device)
            before = time.monotonic()
            for _ in range(4):
                pool.renew()
            stills.renew()
            sync(device)
            renewing += time.monotonic() - before

    run.note("clips_made", pool.made)
    average.swap()
    run.save(model.state_dict())
    return run


def fill(pool: LatentPool, run: Run, seconds: float) -> None:
    """Fill the store until it is full or the time for that is over, each shelf with a chunk at least."""
    start = time.monotonic()
    while not pool.full and (time.monotonic() - start < seconds or any(shelf.filled == 0 for shelf in pool.shelves)):
        pool.renew()
        if run.budget.steps and all(shelf.filled for shelf in pool.shelves):
            break
    say(f"{pool.made} clips in {time.monotonic() - start:.0f} s")


def _optimizers(model: TrainModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks (Jordan et al., 2024), AdamW for all else."""
    inner = ("attn.", "ff.", "ff_context.", "proj_mlp", "proj_out.weight")
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        in_block = "_blocks." in name and parameter.ndim == 2 and any(part in name for part in inner)
        (matrices if in_block else others).append(parameter)
    return muon_and_adam(matrices, others, (MUON_RATE, ADAM_RATE), betas=(0.9, 0.98), weight_decay=0.01)


def draw_levels(target: Tensor) -> dict[str, Tensor]:
    """Noise levels and guidance for a batch, (B,) each."""
    count, device = len(target), target.device
    given = torch.rand(count, device=device)
    guidance = torch.where(given < 0.5, GUIDANCE, 1 + 62 * (given - 0.5))
    return {"sigma": draw_sigmas(count, target.shape, device), "guidance": guidance}


def flow_losses(model: TrainModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Flow-matching loss of a flat `Batch` with its levels, and its parts at high and low noise and by KINDS.

    A kind of which the batch has nothing gets NaN.
    """
    batch, sigma = Batch.of(inputs), inputs["sigma"]
    noise_augment(batch)
    noise = torch.randn_like(batch.target)
    at = sigma[:, None, None, None, None]
    noisy = (1 - at) * batch.target + at * noise
    flow = model(batch, noisy.to(model.transformer.proj_out.weight.dtype), sigma, inputs["guidance"])
    each = (flow.float() - (noise - batch.target)).square().mean((1, 2, 3, 4))
    high = sigma > 0.8
    kinds = {name: batch.kind == number for number, name in enumerate(KINDS)}
    return {
        "loss": each.mean(),
        "high": (each * high).sum() / high.sum().clamp(min=1),
        "low": (each * ~high).sum() / (~high).sum().clamp(min=1),
        **{name: (each.detach() * among).sum() / among.sum() for name, among in kinds.items()},
    }


def draw_sigmas(count: int, shape: torch.Size, device: torch.device) -> Tensor:
    """Noise levels (count,), spread evenly over the sampler's schedule for latents of `shape`."""
    t = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    mu = math.exp(flux_mu(shape))
    return mu / (mu + (1 / t.clamp(min=1e-4) - 1))


def noise_augment(batch: Batch) -> None:
    """Add noise of a random amplitude to the history of some samples; the start picture and blanks stay as they are.

    What goes forward from a picture also sees its history in another colour now and then, and goes back to its own.
    """
    count, device = len(batch.target), batch.target.device
    amplitude = torch.rand(count, device=device) * DISTURBANCE * (torch.rand(count, device=device) < DISTURBED)
    forward = batch.times["clean_4x"][:, -1] < batch.times["target"][:, 0]
    tinted = (torch.rand(count, device=device) < TINTED) & forward & ~batch.movable["clean"][:, 0]
    tint = (torch.rand(count, device=device) * TINT * tinted)[:, None] * torch.randn(count, 16, device=device)
    for name, movable in batch.movable.items():
        clean, moved = getattr(batch, name), movable[:, None, :, None, None]
        noise = amplitude[:, None, None, None, None] * torch.randn_like(clean) + tint[..., None, None, None]
        setattr(batch, name, clean + moved * noise)


def load_vae(folder: Path) -> AutoencoderKLHunyuanVideo:
    """The trained autoencoder of `folder`."""
    vae = build_vae()
    vae.load_state_dict(load_weights(folder, VAE_NAME))
    return vae.eval().requires_grad_(False)


def load_model(folder: Path) -> TrainModel:
    """The trained transformer and image encoder of `folder`."""
    model = TrainModel()
    model.load_state_dict(load_weights(folder, NAME))
    return model.eval().requires_grad_(False)
