"""Drafts: the same video made sooner and not exactly. All that sets a draft apart is here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FULL: Mapping[str, Any] = {"teacache": False}
DRAFT: Mapping[str, Any] = {"teacache": True}
"""What a draft changes, by the fields of a request. Size, length, seed and steps stay: the video made exactly is the
same one."""


def as_draft(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a request as those of a draft of the same video."""
    return {**settings, **DRAFT}


def in_full(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a draft as those of the same video made exactly."""
    return {**settings, **FULL}


def is_draft(settings: Mapping[str, Any]) -> bool:
    """Tell whether a video of these settings is a draft."""
    return all(settings.get(name) == value for name, value in DRAFT.items())
