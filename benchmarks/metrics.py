"""What a clip is like, in numbers: likeness of pictures, motion between frames, joints of sections, drift.

Frames are uint8 arrays (T, H, W, 3). Nothing here knows how a clip was made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2lab
from skimage.filters import laplace, window
from skimage.metrics import structural_similarity
from skimage.registration import optical_flow_ilk, phase_cross_correlation
from skimage.transform import SimilarityTransform, resize, warp, warp_polar

Frames = NDArray[np.uint8]
Picture = NDArray[np.float64]

ENDS = 0.15
"""Part of a video at each end that drift compares (Zhang and Agrawala, arXiv 2504.12626)."""
PERFECT = 99.0
"""In place of an infinite PSNR, dB."""
QUIET = 0.25
"""A change between frames below which a joint cannot be told from rounding, in levels of 255."""
UPSAMPLING = 20
LEAN_WARPS, REFITS = 10, 5
POLAR = 180, 128
"""Angles over half a turn, and radii, of the spectra in which turns and zooms are shifts."""


def psnr(found: Frames, wanted: Frames) -> float:
    """Peak signal to noise ratio, dB; PERFECT for equal pictures."""
    error = float(np.mean((found.astype(np.float64) - wanted) ** 2))
    return PERFECT if error == 0 else 10 * math.log10(255**2 / error)


def ssim(found: Frames, wanted: Frames) -> float:
    """Structural similarity of two pictures (H, W, 3), at most 1."""
    return float(structural_similarity(found, wanted, channel_axis=2))


@dataclass(frozen=True)
class Movement:
    """How a picture's content moved.

    Attributes:
        x, y: to the right and down, pixels, at the picture's middle.
        zoom: logarithm of the scale; positive where things grew.
        turn: clockwise on the screen, degrees.
        light: change of the mean level, -1..1.
    """

    x: float
    y: float
    zoom: float
    turn: float
    light: float

    def pixels(self, side: float) -> NDArray[np.float64]:
        """(x, y, zoom, turn) in pixels: the last two as a point moves that lies half of `side` off the middle."""
        return np.array([self.x, self.y, self.zoom * side / 2, math.radians(self.turn) * side / 2])


def movement(first: Frames, last: Frames) -> Movement:
    """How the content of picture `first` (H, W, 3) moved to become `last`.

    Turn and zoom are a shift between the spectra in log-polar coordinates; both are undone, and what is left is a
    shift between the pictures (Reddy and Chatterji, 1996). A weak match of the spectra counts only if undoing it
    makes the pictures more alike.
    """
    a, b = _grey(first), _grey(last)
    light = float(b.mean() - a.mean())
    turn, zoom = _turn_and_zoom(a, b)
    options = [(0.0, 0.0), (turn, 0.0), (0.0, zoom), (turn, zoom)]
    found = [(*option, *_shift(a, _undone(b, *option))) for option in options]
    turn, zoom, x, y, _likeness = max(found, key=lambda entry: entry[-1])
    return Movement(*_forward(x, y, turn, zoom), zoom, turn, light)


def lean(first: Frames, last: Frames) -> float:
    """How far upright lines of picture `first` (H, W, 3) lean over to the right in `last`, as a slope.

    An affine motion is laid through the flow between the pictures, where they have edges; of its parts, shifts, zooms
    and turns do not count as leaning.
    """
    a, b = ((grey - grey.mean()) / (grey.std() + 1e-6) for grey in map(_grey, (first, last)))
    down, right = optical_flow_ilk(a, b, num_warp=LEAN_WARPS)
    height, width = a.shape
    inside = np.s_[height // 6 : -(height // 6), width // 6 : -(width // 6)]
    y, x = (axis - axis.mean() for axis in np.mgrid[:height, :width].astype(np.float64))
    places = np.stack([x, y, np.ones_like(x)], axis=-1)[inside].reshape(-1, 3)
    edges = np.hypot(*np.gradient(a))[inside].ravel()
    (_, right_by_y, _), (down_by_x, _, _) = (_fitted(places, flow[inside].ravel(), edges) for flow in (right, down))
    return -float(right_by_y + down_by_x)


def _fitted(places: Picture, values: Picture, weights: Picture) -> Picture:
    """Factors of the columns of `places` whose sum is `values`, as nearly as can be where most of the weight is."""
    trusted, factors = weights, np.zeros(places.shape[1])
    for _ in range(REFITS):
        factors = np.linalg.lstsq(places * trusted[:, None], values * trusted, rcond=None)[0]
        trusted = weights / (np.abs(places @ factors - values) + 0.3)
    return factors


def joint_ratio(frames: Frames, section_frames: int) -> float:
    """Mean change from frame to frame at sections' joints over the median change inside sections.

    The start picture is frame 0; section k ends at frame `section_frames` * (k + 1). 1 where nothing moves, NaN where
    there is no joint.
    """
    changes = _changes(frames)
    joints = np.arange(section_frames, len(changes), section_frames)
    if not len(joints):
        return math.nan
    # Motion slows down and speeds up over a clip: a joint is compared with its own surroundings.
    around = [np.median(changes[max(0, j - section_frames // 2) : j + section_frames // 2 + 1]) for j in joints]
    return float(np.mean(changes[joints] / around))


def step_ratio(frames: Frames, before: int, reach: int) -> float:
    """Change from frame `before` to the next one over the median change on that of its two sides where more happens.

    For a step between two motions: a slow one and a fast one meet at the speed of either. A side is `reach` frames.
    """
    changes = _changes(frames[max(0, before - reach) : before + 2 + reach])
    joint = min(before, reach)
    sides = [side for side in (changes[:joint], changes[joint + 1 :]) if len(side)]
    return float(changes[joint] / max(np.median(side) for side in sides))


def _changes(frames: Frames) -> Picture:
    changes: Picture = np.abs(np.diff(frames.astype(np.float64), axis=0)).mean(axis=(1, 2, 3)) + QUIET
    return changes


def sharpness(picture: Frames) -> float:
    """Logarithm (base 2) of the Laplacian's spread."""
    return float(np.log2(laplace(_grey(picture)).std() + 1e-4))


def drift(frames: Frames) -> dict[str, float]:
    """|mean over the first 15 % - mean over the last 15 %| of frames: sharpness, contrast, colour, identity.

    Sharpness is that of `sharpness`, contrast the luminance's spread (L*), colour the
    mean colour (CIE L*a*b*, so the difference is a colour distance), identity the likeness to frame 0, 32 pixels wide.
    """
    count = max(1, round(ENDS * len(frames)))
    ends = [[_looks(frame, frames[0]) for frame in part] for part in (frames[:count], frames[-count:])]
    means = [{name: np.mean([looks[name] for looks in part], axis=0) for name in part[0]} for part in ends]
    return {name: float(np.linalg.norm(means[0][name] - means[1][name])) for name in means[0]}


def _looks(frame: Frames, start: Frames) -> dict[str, NDArray[np.float64]]:
    lab = rgb2lab(frame)
    small = [resize(_grey(picture), (32, 32), anti_aliasing=True) for picture in (frame, start)]
    return {
        "sharpness": np.float64(sharpness(frame)),
        "contrast": lab[..., 0].std(),
        "colour": lab.mean((0, 1)),
        "identity": np.float64(structural_similarity(*small, data_range=1.0)),
    }


def _grey(picture: Frames) -> Picture:
    return (picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])) / 255


def _turn_and_zoom(a: Picture, b: Picture) -> tuple[float, float]:
    """Degrees clockwise and logarithm of the scale from the spectra, which no shift changes."""
    spectra = [_log_polar(picture) for picture in (a, b)]
    (angle, radius), _, _ = phase_cross_correlation(*spectra, upsample_factor=UPSAMPLING, normalization=None)
    turn = -float(angle) * 180 / POLAR[0]
    turn = (turn + 90) % 180 - 90
    return turn, float(radius) * math.log(max(a.shape) // 2) / POLAR[1]


def _log_polar(picture: Picture) -> Picture:
    """The logarithm of the spectrum's size over half a turn of angles; large structures and their grid are left out."""
    faded = (picture - picture.mean()) * window("hann", picture.shape)
    side = max(picture.shape)
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2(faded, s=(2 * side, 2 * side))))
    polar = warp_polar(
        np.log(spectrum + 1e-3), radius=side // 2, output_shape=(2 * POLAR[0], POLAR[1]), scaling="log", order=3
    )[: POLAR[0]]
    polar = polar[:, POLAR[1] // 3 :]
    return polar - polar.mean(axis=0)


def _undone(picture: Picture, turn: float, zoom: float) -> Picture:
    """The picture turned back and scaled back about its middle."""
    if turn == zoom == 0:
        return picture
    return warp(picture, _about_middle(picture.shape, turn, zoom), mode="reflect", order=1)


def _about_middle(shape: tuple[int, ...], turn: float, zoom: float) -> SimilarityTransform:
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    back = SimilarityTransform(translation=-middle)
    change = SimilarityTransform(scale=math.exp(zoom), rotation=math.radians(turn))
    return back + change + SimilarityTransform(translation=middle)


def _shift(a: Picture, b: Picture) -> tuple[float, float, float]:
    """How far `b` lies right of and below `a`, and how alike both are once laid over each other (correlation)."""
    hann = window("hann", a.shape)
    (y, x), _, _ = phase_cross_correlation(
        (a - a.mean()) * hann, (b - b.mean()) * hann, upsample_factor=UPSAMPLING, normalization=None
    )
    x, y = -float(x), -float(y)
    moved = warp(b, SimilarityTransform(translation=(x, y)), mode="constant", cval=np.nan, order=1)
    seen = np.isfinite(moved)
    if seen.sum() < a.size / 4 or min(a[seen].std(), moved[seen].std()) < 1e-6:
        return x, y, -1.0
    return x, y, float(np.corrcoef(a[seen], moved[seen])[0, 1])


def _forward(x: float, y: float, turn: float, zoom: float) -> tuple[float, float]:
    """A shift found before a turn and a zoom, as the shift after them."""
    moved = math.exp(zoom) * complex(x, y) * complex(math.cos(math.radians(turn)), math.sin(math.radians(turn)))
    return moved.real, moved.imag
