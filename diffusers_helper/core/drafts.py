"""Drafts: the same video made sooner and not exactly. All that sets a draft apart is here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers_helper.core.quality import RUNGS

FULL: Mapping[str, Any] = {"quality": "exact", "teacache": False, "step_cache": None}
DRAFT: Mapping[str, Any] = {**FULL, "quality": "draft"}
"""What a draft changes, by the fields of a request. Size, length, seed and steps stay: the video made exactly is the
same one."""


def as_draft(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a request as those of a draft of the same video."""
    return {**settings, **DRAFT}


def in_full(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a draft as those of the same video made exactly."""
    return {**settings, **FULL}


def is_draft(settings: Mapping[str, Any]) -> bool:
    """Tell whether a video of these settings, those of a recipe of any version, is not made exactly."""
    rung = next((rung for name, rung in RUNGS.items() if name == settings.get("quality")), RUNGS["exact"])
    skips = settings.get("step_cache") or ("teacache" if settings.get("teacache") else rung.step_cache)
    return skips != "none" or bool(rung.linears) or rung.attention_bits == 8
