"""What moves in a clip, with exact numbers, and how far it has moved at each moment.

Every motion runs at its full speed for the first section of 1.2 s, eases to rest over the second and then only sways a
little about where it came to rest. So a video of any length has a meaningful direction, a bounded displacement, and
nothing after 2.4 s depends on the absolute time: a section deep inside a long video (which the original planner
places at "two sections after the start" whatever its true place) can be sampled from its neighbours alone.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SHORT_SIDE = 128
"""Speeds are in pixels of a picture whose shorter side has this many."""
CRUISE, REST = 36, 72
"""Frames at full speed, and the frame at which everything has come to rest."""
FULL_PROGRESS = CRUISE + (REST - CRUISE) / 2

PAN, ZOOM, TURN, LIGHT, LEAN = 0.6, 0.0055, 0.35, 0.012, 0.007
"""Full speeds per frame: pixels, logarithm of the scale, degrees, logarithm of the light, slope of upright lines."""
PACES = {"slow": 0.55, "normal": 1.0, "fast": 1.6}
AMBIENT_PACE = 0.4
"""A prompt that asks for no motion at all gets a zoom in at this pace."""

SHAPES = ("disc", "square", "triangle")
COLOURS = {
    "red": (0.86, 0.12, 0.12),
    "green": (0.13, 0.65, 0.2),
    "blue": (0.13, 0.25, 0.85),
    "yellow": (0.95, 0.85, 0.15),
    "orange": (0.95, 0.5, 0.1),
    "purple": (0.55, 0.2, 0.7),
    "white": (0.96, 0.96, 0.96),
    "black": (0.05, 0.05, 0.05),
}
SLIDES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
ENTRANCES = ("enter left", "enter right", "drop")
ACTIONS = (*SLIDES, "bounce", "spin", "grow", "shrink", *ENTRANCES)


@dataclass(frozen=True)
class Thing:
    """An object over the picture. Positions and the radius are in widths, heights and short sides of the picture."""

    shape: str
    colour: str
    action: str
    x: float
    y: float
    radius: float
    angle: float = 0.0


@dataclass(frozen=True)
class Motion:
    """Signs, times the pace, of every part of a motion; all zero and no thing is a still picture.

    Attributes:
        pan_x, pan_y: the view moves right, down (so what it shows moves left, up).
        zoom: in.
        turn: the picture turns clockwise on the screen.
        light: brighter.
        lean: the picture's top goes to the right and its bottom to the left. Only `train_lora` draws it.
        pace: a name in PACES.
        ambient: nothing was asked for.
        thing: an object that moves over the picture.
        sway: amplitude (in frames of full speed), period (frames) and phase of the swaying at rest.
        surge: what is moved beyond all this (frames of full speed), from which frame of the motion on, in how many.
        then: what follows from frame `change` of the clip on, where this motion stops at once; None for nothing.
    """

    pan_x: int = 0
    pan_y: int = 0
    zoom: int = 0
    turn: int = 0
    light: int = 0
    lean: int = 0
    pace: str = "normal"
    ambient: bool = False
    thing: Thing | None = None
    sway: tuple[float, float, float] = (0.0, 120.0, 0.0)
    surge: tuple[float, float, float] = (0.0, 0.0, 1.0)
    then: Motion | None = None
    change: int = 0

    @property
    def speed(self) -> float:
        """Factor on the full speeds."""
        return AMBIENT_PACE if self.ambient else PACES[self.pace]

    @property
    def course(self) -> list[Motion]:
        """This motion and all that follow it."""
        return [self, *(self.then.course if self.then else ())]

    @property
    def family(self) -> str:
        """The kind of motion, for reports: "pan left", "zoom in", "thing spin", "pan left + zoom in", "still", ..."""
        if self.ambient:
            return "ambient"
        if self.lean:
            return "lean"
        if self.thing:
            return f"thing {self.thing.action}"
        return (
            " + ".join(name for name, (attribute, sign) in PARTS.items() if getattr(self, attribute) == sign) or "still"
        )


PARTS = {
    "pan left": ("pan_x", -1),
    "pan right": ("pan_x", 1),
    "pan up": ("pan_y", -1),
    "pan down": ("pan_y", 1),
    "zoom in": ("zoom", 1),
    "zoom out": ("zoom", -1),
    "turn clockwise": ("turn", 1),
    "turn counter-clockwise": ("turn", -1),
    "brighter": ("light", 1),
    "darker": ("light", -1),
}
"""The camera motions by name: attribute of Motion and its sign."""
NAMES = (*PARTS, *PARTS, "still")
"""What clips with several motions draw from."""


def camera_motion(*names: str, pace: str = "normal") -> Motion:
    """The motion made of the named PARTS."""
    return Motion(pace=pace, **dict(PARTS[name] for name in names))


def draw_motion(rng: random.Random) -> Motion:
    """Draw a motion as training sees them."""
    kind = rng.choices(("camera", "pair", "thing", "still", "ambient"), (64, 5, 18, 8, 5))[0]
    pace = rng.choices(tuple(PACES), (1, 2, 1))[0]
    if kind == "still":
        return Motion()
    sway = (rng.uniform(0, 4), rng.uniform(90, 150), rng.uniform(0, 2 * math.pi))
    if kind == "ambient":
        return Motion(zoom=1, ambient=True, sway=sway)
    if kind == "thing":
        return _with_thing(rng, Motion(pace=pace, sway=sway))
    names = tuple(PARTS)
    first = rng.choices(names, (5, 5, 5, 5, 4, 4, 3, 3, 2, 2))[0]
    second = rng.choice([name for name in names if PARTS[name][0] != PARTS[first][0]])
    return replace(camera_motion(*((first, second) if kind == "pair" else (first,)), pace=pace), sway=sway)


def draw_change(rng: random.Random, change: int) -> Motion:
    """Draw a camera motion that gives way to another one at frame `change`; every other time to its opposite."""
    first = rng.choice(NAMES)
    before, after = (_phase(rng, name) for name in (first, _another(rng, first)))
    return replace(before, then=after, change=change)


def draw_gap(rng: random.Random, opens: int, closes: int) -> Motion:
    """Draw what leads, from frame `opens` on, to a motion that begins anew, at its full speed, at frame `closes`.

    The last motion but one is what a prompt for the gap asks for: often it began a section before, and goes on. How far
    it gets only its end can tell. Every other time what follows is the same motion.
    """
    name = rng.choice(NAMES)
    begin = max(0, opens - CRUISE * rng.choice((1, 1, 2)))
    goes_on = rng.random() < 0.4
    clock = begin if goes_on else opens
    ends = progress(torch.tensor([[opens - clock, closes - clock]]), [Motion()])[0]
    surge = float(ends.diff() + 8) * rng.choice((0.0, rng.uniform(-0.6, 0.0), rng.uniform(0.0, 0.9)))
    gap = replace(_phase(rng, name), surge=(surge, float(opens - clock), float(closes - opens)))
    after = replace(gap, surge=Motion.surge) if rng.random() < 0.5 else _phase(rng, _another(rng, name))
    found = replace(gap, then=after, change=closes)
    if not goes_on and opens:
        found = replace(_phase(rng, _another(rng, name)), then=found, change=opens)
    return Motion(then=found, change=begin) if begin else found


def _another(rng: random.Random, name: str) -> str:
    """A motion that is not `name`, every other time its opposite."""
    if name in PARTS and rng.random() < 0.5:
        attribute, sign = PARTS[name]
        return next(other for other, part in PARTS.items() if part == (attribute, -sign))
    return rng.choice([other for other in NAMES if other != name])


def _phase(rng: random.Random, name: str) -> Motion:
    if name == "still":
        return Motion()
    sway = (rng.uniform(0, 4), rng.uniform(90, 150), rng.uniform(0, 2 * math.pi))
    return replace(camera_motion(name, pace=rng.choices(tuple(PACES), (1, 2, 1))[0]), sway=sway)


def _with_thing(rng: random.Random, motion: Motion) -> Motion:
    action = rng.choice(ACTIONS)
    shape = rng.choice(SHAPES[1:] if action == "spin" else SHAPES)
    thing = Thing(
        shape=shape,
        colour=rng.choice(tuple(COLOURS)),
        action=action,
        x=rng.uniform(0.3, 0.7),
        y=rng.uniform(0.3, 0.7),
        radius=rng.uniform(0.08, 0.17),
        angle=rng.uniform(-30, 30) if action == "spin" else 0.0,
    )
    if action in ENTRANCES:  # nothing of it is in the start picture, so only the prompt may say what it is like
        thing = replace(thing, x=0.5, y=0.6, radius=0.12)
    if action == "bounce":
        motion = replace(motion, pace="normal", sway=(0.0, 120.0, 0.0))
    return replace(motion, thing=thing)


def progress(times: Tensor, motions: list[Motion]) -> Tensor:
    """Frames' worth of full-speed motion done at `times` (B, T), frame numbers from 0: (B, T); `then` plays no part."""
    t = times.clamp(min=0)
    easing = (t - CRUISE).clamp(0, REST - CRUISE)
    done = t.clamp(max=CRUISE) + easing - easing.square() / (2 * (REST - CRUISE))
    amplitude, period, phase = torch.tensor([m.sway for m in motions], device=t.device).unbind(-1)
    envelope = smooth((t - CRUISE) / (REST - CRUISE))
    wave = torch.sin(2 * math.pi * t / period[:, None] + phase[:, None])
    more, begin, span = torch.tensor([m.surge for m in motions], device=t.device)[..., None].unbind(1)
    return done + amplitude[:, None] * envelope * wave + more * smooth((t - begin) / span)


def smooth(part: Tensor) -> Tensor:
    """From 0 to 1, level at both ends."""
    part = part.clamp(0, 1)
    return part.square() * (3 - 2 * part)
