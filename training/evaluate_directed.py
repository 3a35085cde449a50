"""Looks at directed videos: end pictures, a prompt for each section, single frames from text, wordings never seen."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_helper.core.events import SectionDone
from diffusers_helper.core.plan import END, LATENT_WINDOW, START, VideoPlan
from diffusers_helper.core.planning import plan_score
from diffusers_helper.core.score import Score, Stretch
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.framepack.conditions import Conditions
from diffusers_helper.framepack.engine import VideoInputs, sample_sections
from diffusers_helper.framepack.postprocess import Postprocess
from diffusers_helper.framepack.sampler import Sampler, one_sampler
from training.captions import held_out_caption
from training.clips import render
from training.evaluate import PROMPTS, SEED, SIDE, Parts, conditions_of, decode_all, psnr, thumbnails, wanted_motion
from training.latents import encode
from training.loop import autocast
from training.motions import COLOURS, SHAPES, camera_motion
from training.pool import thumbnails_of
from training.scenes import PLACES, Scene, draw_scene, paint_scenes
from training.stills import grey_thumbnails, still_plan

SECTION = 4 * LATENT_WINDOW
KEY, BEFORE, AFTER = "key", "before", "after"
PIECES = 33
"""Frames of given clips: whole pieces of the autoencoder."""
END_MOTIONS = ("pan left", "pan up", "zoom in", "zoom out", "turn clockwise", "darker")
END_SCORES = {
    "original, 1 section": Score("original", (Stretch(1),), end=True),
    "original, 2 sections": Score("original", (Stretch(2),), end=True),
    "original, 3 sections": Score("original", (Stretch(3),), end=True),
    "F1, landing of 1 section": Score("f1", (Stretch(2),), end=True, landing=1),
    "F1, landing of 2 sections": Score("f1", (Stretch(3),), end=True, landing=2),
    "original, key picture after 1 section": Score("original", (Stretch(1), Stretch(1, KEY))),
    "F1, key picture after 2 sections": Score("f1", (Stretch(2), Stretch(1, KEY)), landing=1),
}
JOINTS = {
    "connection": ("pan left", True, 2 * SECTION + 1),
    "before": ("pan left", False, 0),
    "loop": ("pan right", True, 0),
}
"""What is asked for, whether the clip that goes left comes before it, and the frame at which the given clip begins that
it leads to."""
THERE_AND_BACK = replace(wanted_motion("pan left"), then=wanted_motion("pan right"), change=2 * SECTION)
PANS = {"pan left": (1, 0), "pan right": (-1, 0), "pan up": (0, 1), "pan down": (0, -1)}
"""Where the picture's content goes, x and y."""
CHANGES = (
    ("pan left", "pan right"),
    ("pan right", "pan up"),
    ("pan up", "pan down"),
    ("pan down", "pan left"),
    ("pan left", "pan up"),
    ("pan right", "pan left"),
)
REACH = 14
"""Shifts in pixels that are tried."""
COMPARED = 12
"""Frames between the two pictures whose shift is measured."""
FRAMES = 24


def sample(
    parts: Parts, plan: VideoPlan, given: Mapping[str, Tensor], texts: Sequence[Conditions], steps: int
) -> Tensor:
    """Sampled latents (B, 16, n, H, W) in the order of time; `texts` has the conditions by the sections' numbers."""
    sampler = Sampler(parts.transformer, parts.device, torch.float32)
    with autocast(parts.device):
        events = sample_sections(
            plan,
            VideoInputs(given, dict(enumerate(texts)), SEED),
            one_sampler(sampler),
            SamplingSettings(steps),
            Postprocess(None),
        )
        done = {event.index: event.latents.to(parts.device) for event in events if isinstance(event, SectionDone)}
    order = sorted(plan.sections, key=lambda section: section.positions.start)
    return torch.cat([done[section.index] for section in order], dim=2)


def evaluate_directed(parts: Parts, pictures: Tensor, steps: int = 16) -> dict[str, object]:
    """All figures for pictures (B, 3, 256, 256), 0..1, that training never saw."""
    return {
        "end_picture": end_pictures(parts, pictures, steps),
        "joints": joints(parts, pictures, steps),
        "sections_right": prompt_changes(parts, pictures, steps),
        "frames": single_frames(parts, steps),
        "wordings_right": wordings(parts, pictures, steps),
    }


@torch.no_grad()
def end_pictures(parts: Parts, pictures: Tensor, steps: int) -> dict[str, dict[str, float]]:
    """PSNR of the frame that leads to the end or key picture against it, and of that through the autoencoder alone."""
    start = _start(parts, pictures)
    found: dict[str, dict[str, float]] = {}
    for name, score in END_SCORES.items():
        sections = score.stretches[0].sections
        values: dict[str, list[Tensor]] = {"psnr": [], "autoencoder": []}
        for motion in END_MOTIONS:
            times = torch.full((len(pictures), 1), float(SECTION * sections), device=parts.device)
            end = render(pictures, [wanted_motion(motion)] * len(pictures), times)
            alone = encode(parts.vae, end * 2 - 1)
            text = conditions_of(parts, PROMPTS[motion], thumbnails(pictures))
            latents = sample(parts, plan_score(score), {START: start, END: alone, KEY: alone}, [text], steps)
            latents = latents[:, :, : LATENT_WINDOW * sections]
            last = decode_all(parts.vae, torch.cat([start, latents], dim=2))[:, :, -1:]
            values["psnr"].append(psnr(last, end))
            values["autoencoder"].append(psnr(decode_all(parts.vae, alone), end))
        found[name] = {key: round(float(torch.cat(value).mean()), 2) for key, value in values.items()}
    return found


@torch.no_grad()
def joints(parts: Parts, pictures: Tensor, steps: int) -> dict[str, float]:
    """The step from what is made for a clip into that clip, over the median step inside the clip."""
    found: dict[str, float] = {}
    for name, (asked, both, begin) in JOINTS.items():
        before, after = (_frames(pictures, range(at, at + PIECES)) for at in (SECTION + 1 - PIECES, begin))
        given = {BEFORE: encode(parts.vae, before * 2 - 1), AFTER: encode(parts.vae, after * 2 - 1)}
        count = given[AFTER].shape[2]
        stretch = Stretch(1, BEFORE, count, clip=True) if both else Stretch(1, "", 0)
        score = Score("original", (stretch,), tail=(AFTER, count))
        seen = thumbnails_of(before[:, :, -1] if both else after[:, :, 0]).float() / 127.5 - 1
        text = conditions_of(parts, PROMPTS[asked], seen)
        latents = sample(parts, plan_score(score), given, [text], steps)
        last = decode_all(parts.vae, torch.cat([given[BEFORE], latents], dim=2) if both else latents)[:, :, -1]
        inside = after.diff(dim=2).abs().mean((1, 3, 4)).median(dim=1).values
        found[name] = round(float(((after[:, :, 0] - last).abs().mean((1, 2, 3)) / inside).mean()), 2)
    return found


def _frames(pictures: Tensor, numbers: range) -> Tensor:
    times = torch.tensor([numbers] * len(pictures), device=pictures.device).float()
    return render(pictures, [THERE_AND_BACK] * len(pictures), times)


@torch.no_grad()
def prompt_changes(parts: Parts, pictures: Tensor, steps: int) -> dict[str, float]:
    """Part of the sections that move as their prompt says: 2 sections with a change after 1, and 4 after 2."""
    start, seen = _start(parts, pictures), thumbnails(pictures)
    found: dict[str, float] = {}
    for variant in ("original", "f1"):
        for each in (1, 2):
            right: list[bool] = []
            for names in CHANGES:
                plan = plan_score(Score(variant, (Stretch(2 * each),)))
                plan = replace(
                    plan, sections=tuple(replace(s, prompt=int(s.output_index >= each)) for s in plan.sections)
                )
                texts = [conditions_of(parts, PROMPTS[name], seen) for name in names]
                latents = sample(parts, plan, {START: start}, texts, steps)
                clips = decode_all(parts.vae, torch.cat([start, latents], dim=2))
                for section in range(2 * each):
                    begin = SECTION * section + 2
                    moved = pan_between(clips[:, :, begin], clips[:, :, begin + COMPARED])
                    right += [name == names[section >= each] for name in moved]
            found[f"{variant}, change after {each} of {2 * each}"] = round(sum(right) / len(right), 3)
    return found


def pan_between(before: Tensor, after: Tensor) -> list[str]:
    """The pan that takes pictures `before` nearest to `after`, (B, 3, H, W) each, or "still"."""
    height, width = before.shape[-2:]
    errors = {"still": [(before - after).square().mean((1, 2, 3))]}
    for name, (right, down) in PANS.items():
        for far in range(1, REACH + 1):
            x, y = right * far, down * far
            old = before[..., max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
            new = after[..., max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]
            errors.setdefault(name, []).append((old - new).square().mean((1, 2, 3)))
    best = torch.stack([torch.stack(values).amin(0) for values in errors.values()]).argmin(0)
    return [list(errors)[index] for index in best.tolist()]


@torch.no_grad()
def single_frames(parts: Parts, steps: int) -> dict[str, float]:
    """Part of the single frames that show the shape, colours and place that their captions ask for.

    A picture shows what the nearest of the right pictures shows among those that differ in the one thing.
    """
    rng = random.Random(SEED)
    right: dict[str, list[bool]] = {}
    values = []
    scenes = [scene for scene in (draw_scene(rng) for _ in range(2 * FRAMES)) if scene.shape][:FRAMES]
    zero = torch.zeros(1, 16, 1, SIDE // 8, SIDE // 8, device=parts.device)
    for scene in scenes:
        text = conditions_of(parts, held_out_caption(scene, rng), grey_thumbnails(1, parts.device))
        latents = sample(parts, still_plan(), {START: zero}, [text], steps)
        picture = decode_all(parts.vae, latents)[:, :, 0]
        for name, others in _alternatives(scene).items():
            errors = (paint_scenes(others, SIDE, SIDE, parts.device) - picture).square().mean((1, 2, 3))
            right.setdefault(name, []).append(others[int(errors.argmin())] == scene)
        values.append(psnr(picture[:, :, None], paint_scenes([scene], SIDE, SIDE, parts.device)[:, :, None]))
    found = {name: round(sum(hits) / len(hits), 3) for name, hits in right.items()}
    return found | {"psnr": round(float(torch.cat(values).mean()), 2)}


def _alternatives(scene: Scene) -> dict[str, list[Scene]]:
    return {
        "shape": [replace(scene, shape=shape) for shape in SHAPES],
        "colour": [replace(scene, colour=colour) for colour in COLOURS],
        "place": [replace(scene, place=place) for place in PLACES],
        "ground_colour": [replace(scene, ground_colour=colour) for colour in COLOURS],
    }


@torch.no_grad()
def wordings(parts: Parts, pictures: Tensor, steps: int, each: int = 3) -> dict[str, float]:
    """Part of F1's first sections that move as asked in words never trained on, by motion."""
    rng = random.Random(SEED)
    start, seen = _start(parts, pictures), thumbnails(pictures)
    times = torch.arange(SECTION + 1, device=parts.device).float().expand(len(pictures), -1)
    truths = [render(pictures, [wanted_motion(name)] * len(pictures), times) for name in PROMPTS]
    plan = plan_score(Score("f1", (Stretch(1),)))
    right: dict[str, list[float]] = {}
    for name in PROMPTS:
        motion = wanted_motion(name) if name == "still" else camera_motion(name)
        for _ in range(each):
            text = conditions_of(parts, held_out_caption(motion, rng), seen)
            latents = sample(parts, plan, {START: start}, [text], steps)
            clips = decode_all(parts.vae, torch.cat([start, latents], dim=2))
            errors = torch.stack([(clips - truth).square().mean((1, 2, 3, 4)) for truth in truths])
            right.setdefault(name, []).extend((errors.argmin(0) == list(PROMPTS).index(name)).float().tolist())
    return {name: round(sum(hits) / len(hits), 3) for name, hits in right.items()}


def _start(parts: Parts, pictures: Tensor) -> Tensor:
    return encode(parts.vae, F.avg_pool2d(pictures, 2)[:, :, None] * 2 - 1)
