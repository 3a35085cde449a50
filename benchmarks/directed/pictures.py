"""End pictures and key pictures: does the video get to them?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from benchmarks.directed.scene import SECTION, Measured, Scene, borders
from benchmarks.metrics import Frames, joint_ratio, psnr, sharpness, step_ratio
from benchmarks.quality import PROMPTS
from benchmarks.studio import SECTION_SECONDS, Studio
from diffusers_helper.core.directing import key_name
from diffusers_helper.core.plan import END, START
from training.motions import camera_motion

MOTIONS = ("pan left", "zoom in")
ENDS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "original, 1 section": ("original", 1, {}),
    "original, 2 sections": ("original", 2, {}),
    "original, 3 sections": ("original", 3, {}),
    "original, 2 sections, strength 0.5": ("original", 2, {"end_strength": 0.5}),
    "original, 2 sections, mix": ("original", 2, {"end_embedding": "mix"}),
    "original, 3 sections, mix": ("original", 3, {"end_embedding": "mix"}),
    "F1, 2 sections, landing 1": ("f1", 2, {"landing": 1}),
    "F1, 3 sections, landing 1": ("f1", 3, {"landing": 1}),
    "F1, 3 sections, landing 2": ("f1", 3, {}),
    "F1, 3 sections, landing 1, mix": ("f1", 3, {"landing": 1, "end_embedding": "mix"}),
}
"""Variant, sections and settings by name."""
KEYS = {
    f"{title}, key picture at {SECTION_SECONDS * before:.1f} s": (variant, before)
    for title, variant in (("original", "original"), ("F1", "f1"))
    for before in (1, 2)
}
"""Variant and sections before the key picture; one follows it."""


def end_pictures(studio: Studio, scenes: Sequence[Scene]) -> Measured:
    """The last frame against the end picture, beside what the autoencoder alone makes of that."""
    for case, scene, name in product(ENDS, scenes, MOTIONS):
        variant, sections, changes = ENDS[case]
        truth = scene.clip(camera_motion(name), range(SECTION * sections + 1))
        frames = studio.directed(
            studio.inputs(
                {START: truth[0], END: truth[-1]},
                prompt=PROMPTS[name][0],
                variant=variant,
                seconds=SECTION_SECONDS * sections,
                **changes,
            )
        )
        joints = joint_ratio(frames, SECTION) if sections > 1 else None
        numbers = {"case": case, "picture": scene.name, "motion": name, **_reached(studio, frames[-1], truth[-1])}
        yield numbers | {"psnr_all": _rounded(psnr(frames, truth)), "joints": joints}, [*borders(frames), truth[-1]]


def key_pictures(studio: Studio, scenes: Sequence[Scene]) -> Measured:
    """The frame before the key picture against it, likewise, and the steps into the picture and out of it.

    The frame that leads to it shows the same: also the step that is left if one of the two goes.
    """
    for case, scene, name in product(KEYS, scenes, MOTIONS):
        variant, before = KEYS[case]
        motion, at = camera_motion(name), SECTION * before
        key = scene.at(motion, at)
        frames = studio.directed(
            studio.inputs(
                {START: scene.at(motion, 0), key_name(1): key},
                prompt=PROMPTS[name][0],
                variant=variant,
                seconds=SECTION_SECONDS * (before + 1),
                key_seconds=(SECTION_SECONDS * before,),
            )
        )
        steps = {
            "joint_into": step_ratio(frames, at, SECTION // 2),
            "joint_out_of": step_ratio(frames, at + 1, SECTION // 2),
            "joint_without_double": step_ratio(np.delete(frames, at, axis=0), at - 1, SECTION // 2),
        }
        numbers = {"case": case, "picture": scene.name, "motion": name, **_reached(studio, frames[at], key)}
        shown = [*borders(frames[: at + 1]), key, *borders(frames[at + 1 :])]
        yield numbers | steps, shown


def _reached(studio: Studio, found: Frames, wanted: Frames) -> dict[str, float]:
    alone = studio.reconstruction(wanted)
    values = psnr(found, wanted), psnr(alone, wanted)
    return {
        "psnr": _rounded(values[0]),
        "psnr_autoencoder": _rounded(values[1]),
        "below": _rounded(values[1] - values[0]),
        "sharpness_lost": _rounded(sharpness(alone) - sharpness(found)),
    }


def _rounded(value: float) -> float:
    return round(value, 3)
