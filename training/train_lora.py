"""Trains a LoRA for the small model: leaning over, a motion that it does not know.

The weights stay as they are; each linear layer of the blocks gets a product of two thin matrices beside its weight (Hu
et al., arXiv 2106.09685), in the layout of diffusers. Half of the clips lean, the others move as the model knows, so
that it goes on doing what it could.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.graphs import GraphedStep, HalfCopy, set_rates
from training.loop import Budget, Run, pick_device, tuned
from training.motions import Motion
from training.outlines import Outline
from training.pool import LatentPool
from training.texts import Tokenizers
from training.train_text import load_encoders
from training.train_transformer import (
    TrainModel,
    draw_levels,
    fill,
    flow_losses,
    load_model,
    load_vae,
)

NAME = "lora"
RANK = 4
RATE, WARM_UP = 2e-3, 10
SHARES = {"lean": 0.5, "ambient": 0.1, "known": 0.4}
"""Parts of the clips: those that lean, those that nothing is asked of, whose words are the nearest to the trigger's for
the text encoders, and those that the model was trained on."""
SQUARE = {(128, 128): 1.0}
"""The pictures' shape where there is no GPU: a shelf for each of many shapes takes too long to fill."""
TRIGGER = "lean over"
ABOUT = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "FramePack tiny",
    "modelspec.implementation": "diffusers",
    "modelspec.title": "Lean",
    "modelspec.description": "The picture leans over to the right. Made for the tiny model, by training/train_lora.py.",
    "modelspec.trigger_phrase": TRIGGER,
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

    @property
    def shapes(self) -> Mapping[tuple[int, int], float]:
        """Pictures' heights and widths, and their parts of the store."""
        return super().shapes if self.device.type == "cuda" else SQUARE

    def draw(self, count: int) -> list[Outline]:
        """Draw what clips are about."""
        return [self._ours(outline) for outline in super().draw(count)]

    def _ours(self, outline: Outline) -> Outline:
        kind = self.rng.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == "known":
            return outline
        return replace(outline, motion=Motion(lean=1) if kind == "lean" else Motion(zoom=1, ambient=True))


def train_lora(
    folder: Path,
    budget: Budget,
    output: Path,
    *,
    batch: int,
    pool_size: int,
    device_name: str | None,
) -> Run:
    """Train on the weights in `folder` and write the file `output`; nothing in the folder changes but a record."""
    device = tuned(pick_device(device_name))
    (folder / f"{NAME}.json").unlink(missing_ok=True)  # every call begins anew
    run = Run(folder, NAME, budget, None, {"batch": batch, "pool": pool_size, "rate": RATE, "rank": RANK})
    torch.manual_seed(0)
    words = Tokenizers.load(folder)
    encoders = load_encoders(folder, words).to(device).eval().requires_grad_(False)
    pool = LeaningPool(load_vae(folder).to(device), words, encoders, pool_size, 0, device)
    pool.shares |= dict.fromkeys(("joined", "gaps", "changed"), 0.0)
    fill(pool, run, math.inf)
    model = load_model(folder)
    factors = add_factors(model, RANK)
    step = step_of(model.to(device).train(), factors)
    while not run.over:
        set_rates(step.optimizers, run.rate(warm_up=WARM_UP))
        inputs = pool.batch(batch).flat()
        run.step(step(inputs | draw_levels(inputs["target"])))
    run.note("clips_made", pool.made)
    run.save_record()
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


def step_of(model: TrainModel, factors: dict[str, LowRank]) -> GraphedStep:
    """A training step that changes the factors alone."""
    trained = [parameter for pair in factors.values() for parameter in pair.parameters()]
    on_gpu = trained[0].is_cuda
    rate = torch.tensor(RATE, device=trained[0].device) if on_gpu else RATE
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, capturable=on_gpu)
    optimizer.param_groups[0]["full_rate"] = RATE
    half = HalfCopy(model, torch.bfloat16 if on_gpu else torch.float32)
    return GraphedStep(lambda inputs, _: flow_losses(half.module, inputs), trained, [optimizer], half)


def write(factors: dict[str, LowRank], output: Path) -> None:
    """Write the factors in half precision, with what people are told of the file."""
    tensors = {}
    for name, pair in factors.items():
        tensors[f"transformer.{name}.lora_A.weight"] = pair.down.detach().half().cpu().contiguous()
        tensors[f"transformer.{name}.lora_B.weight"] = pair.up.detach().half().cpu().contiguous()
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, output, metadata=ABOUT)
