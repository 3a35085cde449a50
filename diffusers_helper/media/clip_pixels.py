"""Frames of any video as upright sRGB pixels: colour spaces, HDR, pixels that are not square, and rotation."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

_HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
"""PQ and HLG."""
_UNKNOWN = 2
"""ITU-T H.273's number for a colour space that the file does not tell."""
_HD = 720
"""From this height on players take an unknown colour space for BT.709, and below for BT.601."""
_MOST_STRETCHED = 4
"""Pixels that are this many times as wide as high, or the other way round, are taken for a fault of the file."""
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


@dataclass(frozen=True)
class Display:
    """How stored frames are shown: first mirrored, then turned by quarters against the clock.

    Attributes:
        quarters, mirrored: as said.
        aspect: how much wider than high a stored pixel is.
    """

    quarters: int = 0
    mirrored: bool = False
    aspect: Fraction = Fraction(1)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height, in square pixels, in which a frame of that stored size is shown."""
        width = round(width * self.aspect)
        return (height, width) if self.quarters % 2 else (width, height)

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn stored pixels (H, W, 3)."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarters)

    def stored(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn upright pixels (H, W, 3) back to how they are stored."""
        lying = np.rot90(pixels, -self.quarters)
        return lying[:, ::-1] if self.mirrored else lying


def display_of(frame: VideoFrame, aspect: Fraction | None) -> Display:
    """Return what the display matrix says, to the nearest quarter; files without one are upright.

    `aspect` is what the file says of its pixels, which may be nonsense.
    """
    if aspect is None or not 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED:
        aspect = Fraction(1)
    try:
        data = frame.side_data["DISPLAYMATRIX"]  # type: ignore[typeddict-item]  # missing in PyAV's types
    except KeyError:
        return Display(aspect=aspect)
    # A stored pixel at (x, y), y downwards, is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5].astype(float)
    mirrored = bool(a * d - b * c < 0)
    if mirrored:  # what is left after the mirroring
        a, b = -a, -b
    return Display(round(np.degrees(np.arctan2(-b, a)) / 90) % 4, mirrored, aspect)


def is_hdr(frame: VideoFrame) -> bool:
    """Tell whether the frame has the brightness of PQ or HLG."""
    return frame.color_trc in _HDR


def upright_rgb(frame: VideoFrame, display: Display, scaler: VideoReformatter) -> NDArray[np.uint8]:
    """Return a decoded frame as uint8 (H, W, 3): sRGB, upright, with square pixels.

    `scaler` is one for all frames of a video: the tables that it makes for HDR take seconds.
    """
    rgb = scaler.reformat(
        frame,
        width=round(frame.width * display.aspect),
        format="rgb24",
        src_colorspace=colorspace_of(frame),
        src_color_range=frame.color_range,
        dst_color_range=ColorRange.JPEG,
        interpolation=_SCALING,
        dst_color_trc=ColorTrc.BT709 if is_hdr(frame) else None,
        dst_color_primaries=ColorPrimaries.BT709 if is_hdr(frame) else None,
    )
    return display.upright(rgb.to_ndarray().astype(np.uint8, copy=False))


def colorspace_of(frame: VideoFrame) -> int:
    """Return the colour space as players take it."""
    if frame.colorspace != _UNKNOWN:
        return int(frame.colorspace)
    return Colorspace.ITU709 if frame.height >= _HD else Colorspace.ITU601


def yuv_709(frame: VideoFrame, size: tuple[int, int], scaler: VideoReformatter) -> VideoFrame:
    """Return a decoded frame as our encoder takes it: of that width and height, yuv420p, BT.709 in limited range.

    `scaler` as for `upright_rgb`.
    """
    width, height = size
    return scaler.reformat(
        frame,
        width=width,
        height=height,
        format="yuv420p",
        src_colorspace=colorspace_of(frame),
        src_color_range=frame.color_range,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=_SCALING,
        dst_color_trc=ColorTrc.BT709 if is_hdr(frame) else None,
        dst_color_primaries=ColorPrimaries.BT709 if is_hdr(frame) else None,
    )
