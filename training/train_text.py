"""Teaches the text encoders to tell what a caption asks for, before anything is moved.

Both are trained to name each of `captions.LABELS` through small heads that are thrown away. The transformer is then
trained on their states as they are, and so need not learn language from the few motions it sees.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.captions import LABELS, Subject, caption, held_out_caption, labels
from training.family import CLIP_WIDTH, LLAMA_WIDTH
from training.loop import Average, Budget, Run, autocast, pick_device
from training.motions import draw_motion
from training.scenes import draw_scene
from training.texts import TextEncoders, Tokenizers, padded

NAME = "text"
BATCH = 256
RATE = 1e-3
BANK = 100_000
"""Captions drawn ahead; each is seen a few times."""
SCENES = 0.25
"""Part of the captions that describe a picture."""
CLASSES = [len(classes) for classes in LABELS.values()]


class Heads(nn.Module):
    """From the states of the two encoders to logits of every label."""

    def __init__(self) -> None:
        super().__init__()
        self.of_mean = nn.Linear(LLAMA_WIDTH, sum(CLASSES))
        self.of_last = nn.Linear(LLAMA_WIDTH, sum(CLASSES))
        self.of_pooled = nn.Linear(CLIP_WIDTH, sum(CLASSES))

    def forward(self, states: Tensor, lengths: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """Logits (B, all classes) by encoder, from states (B, L, width), of which `lengths` (B,) count."""
        valid = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        mean = (states * valid[..., None]).sum(1) / lengths[:, None]
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        normed = [F.layer_norm(x.float(), x.shape[-1:]) for x in (mean, last)]
        return {
            "llama_mean": self.of_mean(normed[0]),
            "llama_last": self.of_last(normed[1]),
            "clip": self.of_pooled(pooled),
        }


class TextTask(nn.Module):
    """Encoders and heads together."""

    def __init__(self, words: Tokenizers) -> None:
        super().__init__()
        self.encoders = TextEncoders(words)
        self.heads = Heads()


Bank = tuple[list[list[int]], list[list[int]], list[list[int]]]


def draw_bank(words: Tokenizers, count: int, rng: random.Random, *, held_out: bool = False) -> Bank:
    """Captions as Llama tokens, CLIP tokens and labels; two captions that say the same thing are never a pair."""
    draw = held_out_caption if held_out else caption
    subjects: list[Subject] = [draw_scene(rng) if rng.random() < SCENES else draw_motion(rng) for _ in range(count)]
    captions = [draw(subject, rng) for subject in subjects]
    return words.llama_ids(captions), words.clip_ids(captions), [labels(subject) for subject in subjects]


def train_text(
    folder: Path,
    budget: Budget,
    *,
    mirror: Path | None = None,
    seed: int = 0,
    device_name: str | None = None,
    batch: int = BATCH,
    captions: int = BANK,
    rate: float = 1.0,
) -> Run:
    """Train, or go on training, the text encoders in `folder`, whose tokenizers must be there.

    `rate` is a factor on the learning rate.
    """
    device = pick_device(device_name)
    words = Tokenizers.load(folder)
    run = Run(folder, NAME, budget, mirror, {"seed": seed, "batch": batch, "rate": rate * RATE})
    torch.manual_seed(seed + len(run.record["calls"]))
    task = TextTask(words).to(device)
    run.resume(task)
    rng = random.Random(seed + 1000 * len(run.record["calls"]))
    bank = draw_bank(words, captions, rng)
    run.note("captions", len(bank[0]))
    average = Average(task, 0.995)
    optimizer = torch.optim.AdamW(task.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)

    while not run.over:
        for group in optimizer.param_groups:
            group["lr"] = rate * RATE * run.rate()
        chosen = [rng.randrange(len(bank[0])) for _ in range(batch)]
        losses, _ = _judge(task, _pick(bank, chosen, words, device), device)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        average.update()
        run.save_now_and_then(task, average)
        run.step(losses)

    average.swap()
    run.note("held_out_accuracy", evaluate(task, words, device, count=min(2000, captions)))
    run.save(task.state_dict())
    return run


def _pick(bank: Bank, chosen: list[int], words: Tokenizers, device: torch.device) -> tuple[Tensor, ...]:
    llama, lengths = padded([bank[0][i] for i in chosen], words.suffix[-1])
    clip, _ = padded([bank[1][i] for i in chosen], words.clip.eos_token_id)
    return tuple(x.to(device) for x in (llama, lengths, clip[:, :77], torch.tensor([bank[2][i] for i in chosen])))


def _judge(
    task: TextTask, picked: tuple[Tensor, ...], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses, and for each encoder whether each label of each caption is right (B, labels)."""
    llama, lengths, clip, wanted = picked
    with autocast(device):
        states, pooled = task.encoders.states(llama), task.encoders.pooled(clip)
    losses, right = {}, {}
    for name, logits in task.heads(states.float(), lengths, pooled.float()).items():
        parts = logits.split(CLASSES, dim=1)
        losses[name] = sum((F.cross_entropy(part, wanted[:, i]) for i, part in enumerate(parts)), logits.new_zeros(()))
        right[name] = torch.stack([part.argmax(1) == wanted[:, i] for i, part in enumerate(parts)], dim=1)
    # Widths as the transformer likes its inputs: about one.
    size = states.float().square().mean().log().square() + pooled.float().square().mean().log().square()
    return losses | {"loss": sum(losses.values(), size * 0.01)}, right


@torch.no_grad()
def evaluate(task: TextTask, words: Tokenizers, device: torch.device, count: int, seed: int = 4242) -> dict[str, float]:
    """Part of held-out captions of which an encoder gets each label, and all labels, right."""
    bank = draw_bank(words, count, random.Random(seed), held_out=True)
    found: dict[str, list[Tensor]] = {}
    for start in range(0, count, 250):
        chosen = list(range(start, min(count, start + 250)))
        for name, right in _judge(task, _pick(bank, chosen, words, device), device)[1].items():
            found.setdefault(name, []).append(right.float().cpu())
    accuracy = {f"{name}_all": float(torch.cat(rows).prod(1).mean()) for name, rows in found.items()}
    by_label = torch.cat(found["clip"]).mean(0).tolist()
    accuracy |= {f"clip_{label}": value for label, value in zip(LABELS, by_label, strict=True)}
    return {name: round(value, 4) for name, value in accuracy.items()}


def load_encoders(folder: Path, words: Tokenizers) -> TextEncoders:
    """The trained encoders of `folder`."""
    from training.checkpoint import load_weights

    task = TextTask(words)
    task.load_state_dict(load_weights(folder, NAME))
    return task.encoders
