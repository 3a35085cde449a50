"""The presets that come along, for the models at hand."""

from __future__ import annotations

from typing import Any

from diffusers_helper.core.buckets import BUCKETS, DEFAULT_RESOLUTION
from diffusers_helper.core.drafts import as_draft, in_full
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.presets.preset import Preset

QUICK, FINE = Message("Quick look"), Message("Fine")
LONG, SMALL = Message("Long walk"), Message("Six gigabytes")
_ALL = ("seconds", "steps", "guidance_scale", "cfg_scale", "mp4_crf", "preserved_memory_gb", "width", "height")
"""What each sets, so that nothing of another one stays."""
_SMALL_SIDE, _LARGE = 512, 256
"""Where models begin to be large: a short video of smaller ones takes little anyway."""


def come_along(defaults: GenerationRequest) -> tuple[Preset, ...]:
    """Return them; `defaults` are the settings that suit the models."""
    side = defaults.resolution or DEFAULT_RESOLUTION
    large = side > _LARGE
    usual = {"resolution": side} | {name: getattr(defaults, name) for name in _ALL}

    def preset(name: Message, **changes: Any) -> Preset:
        return Preset(name, in_full(usual) | changes, own=False)

    return (
        preset(QUICK, **as_draft({"seconds": 2.4, "resolution": _below(side) if large else side})),
        preset(FINE, seconds=5.0, steps=min(100, round(1.4 * defaults.steps)), mp4_crf=10),
        preset(LONG, seconds=24.0 if large else 12.0),
        preset(SMALL, resolution=min(side, _SMALL_SIDE), preserved_memory_gb=6.0),
    )


def _below(side: int) -> int:
    """Return a size of about half as many pixels."""
    return max((each for each in BUCKETS if each <= 0.75 * side), default=side)
