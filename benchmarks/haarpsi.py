"""HaarPSI, a likeness of pictures by their edges, as people see it: between PSNR, which counts numbers, and the eye.

Reisenhofer, Bosse, Kutyniok and Wiegand, "A Haar wavelet-based perceptual similarity index for image quality
assessment", Signal Processing: Image Communication 61 (2018), arXiv 1607.06140. It needs no trained weights, as LPIPS
does, and has two constants, which were fitted to what people said of pictures. GMSD (Xue et al., 2014) is simpler, but
measures how unevenly pictures differ: what is lost everywhere alike counts little there, and colour nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Map = NDArray[np.float64]

C = 30.0
"""Square of a coefficient (levels of 255) below which differences hardly count."""
ALPHA = 4.2
"""Steepness of the curve by which likenesses are averaged."""
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Brightness and two colours of red, green and blue."""


def haarpsi(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    """Likeness of two pictures (H, W, 3), at most 1; 1 as well where neither has an edge."""
    a, b = (_halved(picture) @ YIQ.T for picture in (found, wanted))
    edges = [[_haar(picture[..., 0], side) for side in (2, 4, 8)] for picture in (a, b)]
    (fine_a, middle_a, coarse_a), (fine_b, middle_b, coarse_b) = edges
    alike = (_alike(fine_a, fine_b) + _alike(middle_a, middle_b)) / 2
    weights = np.maximum(coarse_a, coarse_b)
    colours = _alike(*(np.stack([_mean(picture[..., k]) for k in (1, 2)]) for picture in (a, b))).mean(0)
    alike, weights = np.stack([*alike, colours]), np.stack([*weights, weights.mean(0)])
    if weights.max() < 1e-6:  # even pictures leave rounding
        return 1.0
    mean = np.average(1 / (1 + np.exp(-ALPHA * alike)), weights=weights)
    return float((np.log(mean / (1 - mean)) / ALPHA) ** 2)


def haarpsi_of_clips(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    """The mean of `haarpsi` over the frames of two clips (T, H, W, 3)."""
    return float(np.mean([haarpsi(a, b) for a, b in zip(found, wanted, strict=True)]))


def _halved(picture: NDArray[np.uint8]) -> Map:
    """Means of 2 x 2 pixels, as from the distance at which people were asked."""
    height, width = (side // 2 for side in picture.shape[:2])
    squares: Map = picture[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).astype(np.float64)
    return squares.mean(axis=(1, 3))


def _haar(grey: Map, side: int) -> Map:
    """Sizes of the Haar coefficients of `side` pixels, (2, H, W): from above to below, from left to right."""
    signs = np.repeat([1.0, -1.0], side // 2) / side
    windows = _windows(grey, side)
    return np.abs(np.stack([np.einsum("yxij,i->yx", windows, signs), np.einsum("yxij,j->yx", windows, signs)]))


def _mean(grey: Map) -> Map:
    return np.abs(_windows(grey, 2).mean(axis=(2, 3)))


def _windows(grey: Map, side: int) -> Map:
    """A window around every pixel; the picture is mirrored at its border, where zeros would be edges."""
    return sliding_window_view(np.pad(grey, (side // 2, side // 2 - 1), "symmetric"), (side, side))


def _alike(a: Map, b: Map) -> Map:
    return (2 * a * b + C) / (a**2 + b**2 + C)
