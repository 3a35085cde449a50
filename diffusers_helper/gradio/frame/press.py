"""Scripts of parts whose buttons may stand for something else by the time that a press ends."""

from __future__ import annotations

from pathlib import Path

_PRESS = Path(__file__).with_name("press.js")


def pressable(script: Path) -> str:
    """Return a part's script for `js_on_load`, with `onPress` before it."""
    return _PRESS.read_text(encoding="utf-8") + script.read_text(encoding="utf-8")
