"""Names that scripts outside import from here; each comes from its own module, which is loaded at first use.

Nobody inside the package imports this module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers_helper.core.files import generate_timestamp
    from diffusers_helper.media.frames import crop_or_pad_yield_mask, soft_append_bcthw
    from diffusers_helper.media.photo import resize_and_center_crop
    from diffusers_helper.media.video import save_bcthw_as_mp4

__all__ = [
    "crop_or_pad_yield_mask",
    "generate_timestamp",
    "resize_and_center_crop",
    "save_bcthw_as_mp4",
    "soft_append_bcthw",
]

_HOMES = {
    "crop_or_pad_yield_mask": "media.frames",
    "generate_timestamp": "core.files",
    "resize_and_center_crop": "media.photo",
    "save_bcthw_as_mp4": "media.video",
    "soft_append_bcthw": "media.frames",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"diffusers_helper.{_HOMES[name]}"), name)
