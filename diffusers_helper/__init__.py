"""FramePack: a photo and a prompt become a long video, one section at a time."""

from typing import Any

__all__ = ["FramePack"]


def __getattr__(name: str) -> Any:
    """Import `FramePack` when it is first asked for: importing the package alone costs nothing."""
    if name == "FramePack":
        from diffusers_helper.api import FramePack

        return FramePack
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
