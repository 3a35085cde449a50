"""Still pictures that words can describe in full: one thing on a plain, shaded or striped background."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from training.clips import signed_distance
from training.motions import COLOURS, SHAPES

GROUNDS = ("plain", "gradient", "stripes")
PLACES = {"middle": (0.5, 0.5), "left": (0.25, 0.5), "right": (0.75, 0.5), "top": (0.5, 0.25), "bottom": (0.5, 0.75)}
"""Where the thing's centre is, in widths and heights."""
SIZES = {"small": 0.11, "normal": 0.17, "large": 0.25}
"""Radii of things, in shorter sides."""
EMPTY_PART = 0.12
"""So many pictures are of a background alone."""
STRIPES = 8
GREY = 0.5


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `shape`, `colour`, `place` and `size` are None where there is no thing."""

    ground: str
    ground_colour: str
    shape: str | None = None
    colour: str | None = None
    place: str | None = None
    size: str | None = None


def draw_scene(rng: random.Random) -> Scene:
    """Draw a scene as training sees them."""
    ground, below = rng.choices(GROUNDS, (3, 1, 1))[0], rng.choice(tuple(COLOURS))
    if rng.random() < EMPTY_PART:
        return Scene(ground, below)
    hidden = {below, "black"} if ground == "gradient" else {below}
    return Scene(
        ground,
        below,
        shape=rng.choice(SHAPES),
        colour=rng.choice([colour for colour in COLOURS if colour not in hidden]),
        place=rng.choices(tuple(PLACES), (3, 1, 1, 1, 1))[0],
        size=rng.choices(tuple(SIZES), (1, 2, 1))[0],
    )


def paint_scenes(scenes: list[Scene], height: int, width: int, device: torch.device) -> Tensor:
    """The pictures (B, 3, height, width), 0..1."""
    grounds = torch.stack([_ground(scene, height, width, device) for scene in scenes])
    rows = torch.arange(height, device=device)[:, None] + 0.5
    columns = torch.arange(width, device=device) + 0.5
    for picture, scene in zip(grounds, scenes, strict=True):
        if scene.shape is None or scene.colour is None:
            continue
        x, y = PLACES[scene.place or "middle"]
        radius = torch.tensor(SIZES[scene.size or "normal"] * min(height, width), device=device)
        cover = (0.5 - signed_distance(scene.shape, columns - x * width, rows - y * height, radius)).clamp(0, 1)
        picture.lerp_(_colour(scene.colour, device).expand_as(picture), cover)
    return grounds


def _ground(scene: Scene, height: int, width: int, device: torch.device) -> Tensor:
    colour = _colour(scene.ground_colour, device).expand(3, height, width)
    if scene.ground == "gradient":
        return colour * torch.linspace(1, 0, height, device=device)[:, None]
    if scene.ground == "stripes":
        odd = (torch.arange(width, device=device) * STRIPES // width) % 2 == 1
        return torch.where(odd, torch.full_like(colour, GREY), colour)
    return colour.clone()


def _colour(name: str, device: torch.device) -> Tensor:
    return torch.tensor(COLOURS[name], device=device)[:, None, None]
