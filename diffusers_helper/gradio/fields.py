"""Controls that several regions have."""

from __future__ import annotations

import gradio as gr


def slider(label: str, info: str, low: float, high: float, value: float, step: float) -> gr.Slider:
    """Return a slider that looks as all of them do."""
    return gr.Slider(low, high, value, step=step, label=label, info=info, buttons=[])
