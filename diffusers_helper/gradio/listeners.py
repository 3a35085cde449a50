"""How Gradio calls the page's handlers: with the controls' raw JSON, and without a place in its queue."""

from __future__ import annotations

from typing import Any

RAW: dict[str, Any] = {"preprocess": False, "postprocess": False, "show_progress": "hidden"}
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""For what the page alone asks."""
