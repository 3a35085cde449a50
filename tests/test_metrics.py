"""The quality lab's numbers, on clips whose motion, joints and drift are known."""

import math

import numpy as np
import pytest
import torch
from skimage import data

from benchmarks.metrics import PERFECT, drift, joint_ratio, lean, movement, psnr, ssim
from training.clips import render
from training.motions import LEAN, LIGHT, PAN, TURN, ZOOM, Motion, camera_motion

FRAMES = 24
EXPECTED = {
    "pan left": (PAN, 0, 0, 0),
    "pan right": (-PAN, 0, 0, 0),
    "pan up": (0, PAN, 0, 0),
    "pan down": (0, -PAN, 0, 0),
    "zoom in": (0, 0, ZOOM, 0),
    "zoom out": (0, 0, -ZOOM, 0),
    "turn clockwise": (0, 0, 0, TURN),
    "turn counter-clockwise": (0, 0, 0, -TURN),
    "brighter": (0, 0, 0, 0),
    "still": (0, 0, 0, 0),
}
"""Pixels right and down, logarithm of the scale, degrees clockwise; per frame."""


def clip_of(motion: Motion, frames: int = FRAMES, height: int = 96, width: int = 128) -> np.ndarray:
    """A photograph moved, (T, H, W, 3) uint8."""
    photo = torch.from_numpy(data.chelsea()[20 : 20 + 2 * height, 120 : 120 + 2 * width].copy())
    clip = render(photo.permute(2, 0, 1)[None] / 255, [motion], torch.arange(frames).float()[None])
    return (clip[0].permute(1, 2, 3, 0) * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("name", EXPECTED)
def test_known_motion_is_found(name):
    motion = Motion() if name == "still" else camera_motion(name)
    clip = clip_of(motion)
    found = movement(clip[0], clip[-1])
    x, y, zoom, turn = (value * (FRAMES - 1) for value in EXPECTED[name])
    # Speeds are for a short side of 128.
    assert (found.x, found.y) == pytest.approx((x * 96 / 128, y * 96 / 128), abs=0.4)
    assert found.zoom == pytest.approx(zoom, abs=0.015)
    assert found.turn == pytest.approx(turn, abs=0.5)
    if name == "brighter":
        assert found.light == pytest.approx((1 - clip[0].mean() / 255) * (1 - math.exp(-LIGHT * 23)), abs=0.01)


@pytest.mark.parametrize("name", ["lean", "back", *EXPECTED])
def test_leaning_is_neither_a_turn_nor_a_zoom(name):
    leans = {"lean": 1, "back": -1}.get(name, 0)
    clip = clip_of(Motion(lean=leans) if leans or name == "still" else camera_motion(name))
    assert lean(clip[0], clip[-1]) == pytest.approx(23 * LEAN * leans, abs=0.01)


def test_a_lean_with_a_zoom_is_as_far_as_one_without():
    clip = clip_of(Motion(lean=1, zoom=1))
    assert lean(clip[0], clip[-1]) == pytest.approx(23 * LEAN, abs=0.02)


def test_a_pan_with_a_zoom_is_both():
    clip = clip_of(camera_motion("pan left", "zoom in"))
    found = movement(clip[0], clip[-1])
    assert found.x > 5
    assert found.zoom == pytest.approx(23 * ZOOM, abs=0.03)


def test_pixels_put_turns_and_zooms_in_the_measure_of_pans():
    clip = clip_of(camera_motion("turn clockwise"))
    pixels = movement(clip[0], clip[-1]).pixels(96)
    assert pixels[3] == pytest.approx(math.radians(23 * TURN) * 48, abs=0.5)


def test_likeness():
    picture = clip_of(Motion(), frames=1)[0]
    brighter = np.clip(picture.astype(int) + 10, 0, 255).astype(np.uint8)
    assert psnr(picture, picture) == PERFECT
    assert psnr(brighter, picture) == pytest.approx(20 * math.log10(255 / 10), abs=0.2)
    assert ssim(picture, picture) == 1
    assert ssim(np.roll(picture, 9, axis=1), picture) < 0.5


def test_a_jump_at_a_joint_shows():
    clip = clip_of(camera_motion("pan left"), frames=31)
    assert joint_ratio(clip, 10) == pytest.approx(1, abs=0.1)
    jumped = np.concatenate([clip[:11], clip[14:]])
    assert joint_ratio(jumped, 10) > 1.3
    assert joint_ratio(np.repeat(clip[:1], 31, axis=0), 10) == 1
    assert math.isnan(joint_ratio(clip[:9], 10))


def test_drift_is_what_changes_from_one_end_to_the_other():
    clip = clip_of(Motion(), frames=20)
    assert drift(clip) == pytest.approx(dict.fromkeys(("sharpness", "contrast", "colour", "identity"), 0), abs=1e-9)

    fading = clip.astype(float)
    fading[10:] = 128 + 0.5 * (fading[10:] - 128)
    fading[10:, ..., 0] += 20
    found = drift(fading.clip(0, 255).astype(np.uint8))
    assert found["sharpness"] == pytest.approx(1, abs=0.15)
    assert found["contrast"] > 5
    assert found["colour"] > 5

    turning = clip.copy()
    turning[10:] = turning[10:, :, ::-1]
    found = drift(turning)
    assert found["identity"] > 0.3
    assert found["colour"] < 1e-6
