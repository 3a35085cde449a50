"""Pictures and motions become clips: the camera's view, the light and the things, drawn in batches on any device.

Pictures come at twice the clip's size; the view samples them there and is then averaged, so that a picture stays
equally sharp wherever it has moved to. Where the view leaves the picture it sees the picture mirrored.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.motions import (
    COLOURS,
    FULL_PROGRESS,
    LEAN,
    LIGHT,
    PAN,
    SHAPES,
    SHORT_SIDE,
    SLIDES,
    TURN,
    ZOOM,
    Motion,
    progress,
)

BOUNCES = 3


def render(pictures: Tensor, motions: list[Motion], times: Tensor) -> Tensor:
    """Draw the frames of clips.

    Args:
        pictures: (B, 3, 2H, 2W), 0..1.
        motions: one for each picture.
        times: frame numbers (B, T); 0 is the start picture.

    Returns (B, 3, T, H, W), 0..1.
    """
    phases = _phases(motions, times)
    frames = _views(pictures, phases)
    for moving, done in phases:
        frames = _lit(frames, moving, done)
    return _with_things(frames, *phases[0]).clamp(0, 1)


Phase = tuple[list[Motion], Tensor]
"""Motions, one for each clip, and the frames' worth of each that is done, (B, T)."""


def _phases(motions: list[Motion], times: Tensor) -> list[Phase]:
    """The motions up to where they change and, while any does, those that follow."""
    begin, found = torch.zeros(len(motions), 1, device=times.device), []
    while True:
        end = torch.tensor([[m.change if m.then else math.inf] for m in motions], device=times.device)
        found.append((motions, progress(times.minimum(end) - begin, motions)))
        if not any(motion.then for motion in motions):
            return found
        begin, motions = end, [motion.then or Motion() for motion in motions]


def _rates(motions: list[Motion], device: torch.device) -> dict[str, Tensor]:
    """Rates of change per frame of full speed, (B, 1) each."""
    full = {"pan_x": PAN, "pan_y": PAN, "zoom": ZOOM, "turn": math.radians(TURN), "light": LIGHT, "lean": LEAN}
    return {
        name: torch.tensor([[getattr(m, name) * m.speed * rate] for m in motions], device=device)
        for name, rate in full.items()
    }


def _views(pictures: Tensor, phases: list[Phase]) -> Tensor:
    """What the camera sees, (B, 3, T, H, W): the last phase's view of the one before it, and so on to the picture."""
    batch, _, height2, width2 = pictures.shape
    frames = phases[0][1].shape[1]
    pixel = min(height2, width2) / SHORT_SIDE
    y, x = _centred(height2, width2, pictures.device)
    for motions, done in reversed(phases):
        x, y = _seen(x, y, _rates(motions, pictures.device), done, pixel)
    grid = torch.stack([x * (2 / width2), y * (2 / height2)], dim=-1)
    views = F.grid_sample(pictures, grid.flatten(1, 2), mode="bilinear", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(views, 2).view(batch, 3, frames, height2 // 2, width2 // 2)


def _seen(x: Tensor, y: Tensor, rate: dict[str, Tensor], done: Tensor, pixel: float) -> tuple[Tensor, Tensor]:
    """Where the points x, y of the views lie in what is viewed, (B, T, H, W) each."""
    shrink, angle = torch.exp(-rate["zoom"] * done), rate["turn"] * done
    cos, sin = ((f(angle) * shrink)[..., None, None] for f in (torch.cos, torch.sin))
    pan_x, pan_y = ((rate[name] * done * pixel)[..., None, None] for name in ("pan_x", "pan_y"))
    x = x + (rate["lean"] * done)[..., None, None] * y
    return cos * x + sin * y + pan_x, cos * y - sin * x + pan_y


def _lit(frames: Tensor, motions: list[Motion], done: Tensor) -> Tensor:
    """Darker fades to black, brighter to white, neither clips."""
    amount = (_rates(motions, frames.device)["light"] * done)[:, None, :, None, None]
    return torch.where(amount > 0, 1 - (1 - frames) * torch.exp(-amount.abs()), frames * torch.exp(-amount.abs()))


def _with_things(frames: Tensor, motions: list[Motion], done: Tensor) -> Tensor:
    rows = [i for i, m in enumerate(motions) if m.thing]
    if not rows:
        return frames
    drawn = [_draw_thing(frames[i], motions[i], done[i]) for i in rows]
    frames = frames.clone()
    frames[rows] = torch.stack(drawn)
    return frames


def _draw_thing(frames: Tensor, motion: Motion, done: Tensor) -> Tensor:
    """Draw the thing over (3, T, H, W) with edges one pixel soft."""
    thing = motion.thing
    assert thing is not None
    _, _, height, width = frames.shape
    x, y, radius, angle = thing_path(motion, done, height, width)
    rows, columns = _centred(height, width, frames.device)
    dx = columns + width / 2 - x[:, None, None]
    dy = rows + height / 2 - y[:, None, None]
    cos, sin = (f(angle)[:, None, None] for f in (torch.cos, torch.sin))
    distance = signed_distance(thing.shape, cos * dx + sin * dy, cos * dy - sin * dx, radius[:, None, None])
    cover = (0.5 - distance).clamp(0, 1)
    colour = frames.new_tensor(COLOURS[thing.colour])[:, None, None, None]
    return frames * (1 - cover) + colour * cover


def thing_path(motion: Motion, done: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x and y, radius (pixels) and angle (radians) of the motion's thing after `done` (T,) frames of motion."""
    thing = motion.thing
    assert thing is not None
    short = min(height, width)
    way = done * motion.speed * (short / SHORT_SIDE)
    part = (done / FULL_PROGRESS).clamp(max=1.1)
    x, y = torch.full_like(done, thing.x * width), torch.full_like(done, thing.y * height)
    radius, angle = torch.full_like(done, thing.radius * short), torch.full_like(done, math.radians(thing.angle))
    if thing.action in SLIDES:
        step_x, step_y = SLIDES[thing.action]
        x, y = x + 0.8 * way * step_x, y + 0.8 * way * step_y
    elif thing.action == "bounce":
        fading = (1 - part).clamp(min=0)
        y = y - 0.25 * short * fading * torch.sin(math.pi * BOUNCES * part).abs()
    elif thing.action == "spin":
        angle = angle + math.radians(1.7) * done * motion.speed
    elif thing.action in ("grow", "shrink"):
        radius = radius * torch.exp((1 if thing.action == "grow" else -1) * 0.009 * done * motion.speed)
    else:  # it enters and, at normal pace, comes to rest in the middle
        outside = (1 - done * motion.speed / FULL_PROGRESS).clamp(min=0)
        reach = 0.5 + 1.1 * thing.radius * short / (height if thing.action == "drop" else width)
        if thing.action == "drop":
            y = y - outside * (thing.y + 1.1 * thing.radius * short / height) * height
        else:
            x = x + outside * reach * width * (-1 if thing.action == "enter left" else 1)
    return x, y, radius, angle


def signed_distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance (pixels, negative inside) to a shape centred on the origin; its area is near that of the disc."""
    if shape == "disc":
        return torch.hypot(x, y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.89 * radius
    assert shape in SHAPES
    slope = math.sqrt(3) / 2
    return torch.maximum(slope * x.abs() - y * 0.5, y) - 0.62 * radius


def _centred(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) and columns (1, W) of pixel centres, counted from the picture's middle."""
    rows = torch.arange(height, device=device) + 0.5 - height / 2
    columns = torch.arange(width, device=device) + 0.5 - width / 2
    return rows[:, None], columns[None, :]
