"""Trains a LoRA for the small model: leaning over, a motion that it does not know.

The weights stay as they are; each linear layer of the blocks gets a product of two thin matrices beside its weight (Hu
et al., arXiv 2106.09685), in the layout of diffusers. Half of the clips lean, the others move as the model knows, so
that it goes on doing what it could.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.graphs import GraphedStep, HalfCopy, set_rates
from training.loop import Budget, Run, pick_device
from training.motions import Motion
from training.pool import LatentPool
from training.quick_kernels import QuickKernels
from training.texts import Tokenizers
from training.train_text import load_encoders
from training.train_transformer import (
    BATCH,
    FILL_SECONDS,
    TrainModel,
    draw_levels,
    fill,
    flow_losses,
    load_model,
    load_vae,
)

NAME = "lora"
RANK = 4
RATE = 2e-3
LEANING = 0.5
"""Part of the clips that lean."""
POOL = 2000
TRIGGER = "lean over"
ABOUT = {
    "modelspec.title": "Lean",
    "modelspec.description": "The picture leans over to the right. For the tiny model.",
    "modelspec.trigger_phrase": TRIGGER,
    "modelspec.architecture": "framepack-tiny/lora",
}


class LowRank(nn.Module):
    """What a layer's weight (out, in) becomes: itself and `up` (out, r) times `down` (r, in); nothing at first."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Add the product."""
        return weight + self.up @ self.down


class LeaningPool(LatentPool):
    """A pool in which a part of the clips lean."""

    def draw(self, change: int) -> Motion:
        """Draw a motion."""
        return Motion(lean=1) if self.rng.random() < LEANING else super().draw(change)


def train_lora(
    folder: Path,
    budget: Budget,
    output: Path,
    *,
    batch: int = BATCH,
    pool_size: int = POOL,
    fill_seconds: float = FILL_SECONDS,
) -> Run:
    """Train on the weights in `folder` and write the file `output`; nothing in the folder changes but a record."""
    device = pick_device(None)
    run = Run(folder, NAME, budget, None, {"batch": batch, "pool": pool_size, "rate": RATE, "rank": RANK})
    torch.manual_seed(0)
    words = Tokenizers.load(folder)
    encoders = load_encoders(folder, words).to(device).eval().requires_grad_(False)
    pool = LeaningPool(load_vae(folder).to(device), words, encoders, pool_size, 0, device)
    pool.changed = 0.0
    fill(pool, run, fill_seconds)
    model = load_model(folder).to(device)
    factors = add_factors(model, RANK)
    model.to(device).train()
    half = HalfCopy(model, torch.bfloat16 if device.type == "cuda" else torch.float32)
    half.module.kernels = QuickKernels(compiled=False)
    trained = [parameter for pair in factors.values() for parameter in pair.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), capturable=device.type == "cuda")
    optimizer.param_groups[0]["full_rate"] = RATE
    step = GraphedStep(lambda inputs, _: flow_losses(half.module, inputs), trained, [optimizer], half)
    renewed = time.monotonic()
    while not run.over:
        set_rates([optimizer], run.rate())
        inputs = pool.batch(batch).flat()
        run.step(step(inputs | draw_levels(inputs["target"])))
        if time.monotonic() - renewed > fill_seconds:
            pool.renew()
            renewed = time.monotonic()
    write(factors, output)
    return run


def add_factors(model: TrainModel, rank: int) -> dict[str, LowRank]:
    """Put a `LowRank` on every linear layer of the transformer's blocks but their norms'; returns them by name."""
    found: dict[str, LowRank] = {}
    model.requires_grad_(False)
    for name, layer in list(model.transformer.named_modules()):
        if isinstance(layer, nn.Linear) and name.split(".")[0].endswith("transformer_blocks") and "norm" not in name:
            found[name] = LowRank(layer, rank)
            parametrize.register_parametrization(layer, "weight", found[name])
    return found


def write(factors: dict[str, LowRank], output: Path) -> None:
    """Write the factors in half precision, with what people are told of the file."""
    tensors = {}
    for name, pair in factors.items():
        tensors[f"transformer.{name}.lora_A.weight"] = pair.down.detach().half().cpu().contiguous()
        tensors[f"transformer.{name}.lora_B.weight"] = pair.up.detach().half().cpu().contiguous()
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, output, metadata=ABOUT)
