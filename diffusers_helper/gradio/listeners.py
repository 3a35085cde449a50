"""How Gradio calls the page's handlers: with the controls' raw JSON, and without a place in its queue.

What a handler gives back goes to controls by their names, so that nobody counts places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any
from zlib import crc32

import gradio as gr

RAW: dict[str, Any] = {"preprocess": False, "postprocess": False, "show_progress": "hidden"}
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""For what the page alone asks."""


def fills(handler: Callable[..., Mapping[str, Any]], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the function and the outputs of a listener whose handler gives back values by the names in `outputs`.

    What it does not name stays as it is; a name that is not there raises KeyError.
    """

    @wraps(handler)
    def filling(*given: Any, **named: Any) -> list[Any]:
        told = handler(*given, **named)
        if unknown := told.keys() - outputs.keys():
            raise KeyError(", ".join(sorted(unknown)))
        return [told.get(name, gr.skip()) for name in outputs]

    return {"fn": filling, "outputs": [*outputs.values()]}


def news(values: Mapping[str, Any], seen: object) -> dict[str, Any]:
    """Return those of `values` that a tab does not have by what it has `seen`, and in `seen` what it has then.

    Nothing where it has all.
    """
    words = {name: f"{name}:{crc32(repr(value).encode()):08x}" for name, value in values.items()}
    known = seen.split() if isinstance(seen, str) else []
    changed = {name: value for name, value in values.items() if words[name] not in known}
    return {"seen": " ".join(words.values()), **changed} if changed else {}
