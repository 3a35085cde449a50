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
import torch._dynamo
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn

from diffusers_helper.pipelines.k_diffusion_hunyuan import flux_mu
from training.checkpoint import load_weights
from training.family import build_siglip, build_transformer, build_vae
from training.loop import Average, Budget, Run, autocast, pick_device, say
from training.muon import Muon
from training.patches import with_matrices
from training.pool import Batch, LatentPool
from training.texts import TextEncoders, Words
from training.train_text import load_encoders
from training.train_vae import NAME as VAE_NAME

NAME = "transformer"
BATCH = 128
POOL = 12_000
FILL_SECONDS = 50.0
RENEW_SHARE = 0.15
"""Part of the time that goes into new clips once training has begun."""
ADAM_RATE, MUON_RATE = 1e-3, 2e-3
GUIDANCE = 10.0
DISTURBED, DISTURBANCE = 0.6, 0.35
"""Part of the sections whose history is disturbed, and the largest amplitude of the noise."""


class Mover(nn.Module):
    """What is trained here: the transformer and the image encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.siglip = build_siglip()
        with_matrices(self)
        _begin_as_identity(self.transformer)

    def forward(
        self, batch: Batch, noisy: Tensor, sigma: Tensor, guidance: Tensor, text: Tensor, pooled: Tensor
    ) -> Tensor:
        """Predict the flow (B, 16, 9, H, W)."""
        arguments: dict[str, Any] = {
            "hidden_states": noisy,
            "timestep": sigma * 1000,
            "encoder_hidden_states": text,
            "encoder_attention_mask": torch.ones(text.shape[:2], dtype=torch.bool, device=text.device),
            "pooled_projections": pooled,
            "guidance": guidance * 1000,
            "latent_indices": batch.times["target"],
            "clean_latents": batch.clean,
            "clean_latent_indices": batch.times["clean"],
            "clean_latents_2x": batch.clean_2x,
            "clean_latent_2x_indices": batch.times["clean_2x"],
            "clean_latents_4x": batch.clean_4x,
            "clean_latent_4x_indices": batch.times["clean_4x"],
            "image_embeddings": self.siglip(batch.thumbnails).last_hidden_state,
        }
        return self.transformer(**arguments, return_dict=False)[0]


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
) -> Run:
    """Train, or go on training, the transformer in `folder`, where the autoencoder and the text encoders must be."""
    device = pick_device(device_name)
    settings = {"seed": seed, "batch": batch, "pool": pool_size, "adam": ADAM_RATE, "muon": MUON_RATE}
    run = Run(folder, NAME, budget, mirror, settings)
    torch.manual_seed(seed + len(run.record["calls"]))
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    words = Words.load(folder)
    vae = load_vae(folder).to(device)
    encoders = load_encoders(folder, words).to(device).eval().requires_grad_(False)
    model = Mover().to(device)
    run.resume(model)
    model.train()
    pool = LatentPool(vae, words, pool_size, seed + 1000 * len(run.record["calls"]), device)
    _fill(pool, run, fill_seconds)
    if compiled and device.type == "cuda":
        _compile_blocks(model)

    average = Average(model, 0.999)
    optimizers = _optimizers(model)
    renewing = 0.0
    started = time.monotonic()
    while not run.over:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_rate"] * run.rate()
        losses = flow_losses(model, encoders, pool.batch(batch), device)
        losses["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update()
        run.save_now_and_then(model, average)
        run.step(losses | {"norm": norm})
        if renewing < RENEW_SHARE * (time.monotonic() - started):
            before = time.monotonic()
            pool.renew()
            renewing += time.monotonic() - before

    run.note("clips_made", pool.made)
    average.swap()
    run.save(model.state_dict())
    return run


def _fill(pool: LatentPool, run: Run, seconds: float) -> None:
    """Fill the store until it is full or the time for that is over, each shelf with a chunk at least."""
    start = time.monotonic()
    while not pool.full and (time.monotonic() - start < seconds or any(s.filled == 0 for s in pool.shelves)):
        pool.renew()
        if run.budget.steps and all(s.filled for s in pool.shelves):
            break
    say(f"{pool.made} clips in {time.monotonic() - start:.0f} s")


def _compile_blocks(model: Mover) -> None:
    """Compile the blocks, for lengths of any kind; where that fails, torch falls back to plain calls."""
    torch._dynamo.config.suppress_errors = True
    for block in (*model.transformer.transformer_blocks, *model.transformer.single_transformer_blocks):
        block.compile(dynamic=True)


def _optimizers(model: Mover) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks (Jordan et al., 2024), AdamW for all else."""
    inner = ("attn.", "ff.", "ff_context.", "proj_mlp", "proj_out.weight")
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        in_block = "_blocks." in name and parameter.ndim == 2 and any(part in name for part in inner)
        (matrices if in_block else others).append(parameter)
    muon = Muon(matrices, lr=MUON_RATE, weight_decay=0.01)
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer, rate in ((muon, MUON_RATE), (adam, ADAM_RATE)):
        for group in optimizer.param_groups:
            group["full_rate"] = rate
    return [muon, adam]


def flow_losses(model: Mover, encoders: TextEncoders, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Flow-matching loss of a batch, and its parts at high and low noise."""
    count = len(batch.target)
    disturb(batch)
    noise = torch.randn_like(batch.target)
    sigma = draw_sigmas(count, batch.target.shape, device)
    at = sigma[:, None, None, None, None]
    noisy = (1 - at) * batch.target + at * noise
    given = torch.rand(count, device=device)
    guidance = torch.where(given < 0.5, GUIDANCE, 1 + 62 * (given - 0.5))
    with torch.no_grad(), autocast(device):
        text, pooled = encoders.states(batch.llama_ids), encoders.pooled(batch.clip_ids)
    with autocast(device):
        flow = model(batch, noisy, sigma, guidance, text.float(), pooled.float())
    each = (flow.float() - (noise - batch.target)).square().mean((1, 2, 3, 4))
    high = sigma > 0.8
    return {
        "loss": each.mean(),
        "high": (each * high).sum() / high.sum().clamp(min=1),
        "low": (each * ~high).sum() / (~high).sum().clamp(min=1),
    }


def draw_sigmas(count: int, shape: torch.Size, device: torch.device) -> Tensor:
    """Noise levels (count,), spread evenly over the sampler's schedule for latents of `shape`."""
    t = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    mu = math.exp(flux_mu(shape))
    return mu / (mu + (1 / t.clamp(min=1e-4) - 1))


def disturb(batch: Batch) -> None:
    """Add noise of a random amplitude to the history of some samples; the start picture and blanks stay as they are."""
    count, device = len(batch.target), batch.target.device
    amplitude = torch.rand(count, device=device) * DISTURBANCE * (torch.rand(count, device=device) < DISTURBED)
    for name, movable in batch.movable.items():
        clean = getattr(batch, name)
        spread = (amplitude[:, None] * movable)[:, None, :, None, None]
        setattr(batch, name, clean + spread * torch.randn_like(clean))


def load_vae(folder: Path) -> AutoencoderKLHunyuanVideo:
    """The trained autoencoder of `folder`."""
    vae = build_vae()
    vae.load_state_dict(load_weights(folder, VAE_NAME))
    return vae.eval().requires_grad_(False)


def load_mover(folder: Path) -> Mover:
    """The trained transformer and image encoder of `folder`."""
    model = Mover()
    model.load_state_dict(load_weights(folder, NAME))
    return model.eval().requires_grad_(False)
