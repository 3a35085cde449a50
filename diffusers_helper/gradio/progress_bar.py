"""A progress bar as HTML and CSS, in the colours of whatever Gradio theme is in use, light or dark."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

_CSS = """
.fp-progress {
  display: flex; flex-direction: column; gap: 0.4em; padding: 0.25em 0; color: var(--body-text-color, CanvasText);
}
.fp-progress-line { display: flex; justify-content: space-between; gap: 1em; }
.fp-progress-text { flex: 1; overflow-wrap: anywhere; }
.fp-progress-left { opacity: 0.85; }
.fp-progress-number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.fp-progress-track {
  height: 0.65em; overflow: hidden; box-sizing: border-box; border-radius: 999px;
  border: 1px solid var(--border-color-primary, GrayText);
  background: var(--background-fill-secondary, Canvas);
}
.fp-progress-fill {
  height: 100%; border-radius: inherit;
  background: linear-gradient(90deg, var(--primary-400, #fb923c), var(--primary-600, #ea580c));
  transition: width 0.3s ease-out;
}
@media (prefers-reduced-motion: reduce) { .fp-progress-fill { transition: none; } }
@media (forced-colors: active) { .fp-progress-fill { background: Highlight; forced-color-adjust: none; } }
"""


@dataclass(frozen=True)
class Advance:
    """How a bar moves by itself in the browser, at most to 99 %, until the page says more.

    Attributes:
        start, percent: where it is and where it arrives.
        seconds: how long that takes.
        left: seconds left of everything, which its second text then counts down; None for one that stays.
    """

    start: float
    percent: float
    seconds: float
    left: float | None = None


def make_progress_bar_html(number: float, text: str, advance: Advance | None = None, left: str = "") -> str:
    """Return a bar filled to `number` percent (clamped to 0-100) below `text` and what is `left`; both are escaped."""
    percent = round(min(max(number, 0), 100))
    label = escape(", ".join(filter(None, (text, left))))
    right = f'<span class="fp-progress-left">{escape(left)}</span>' if left or advance else ""
    return (
        f'<div class="fp-progress"{_data(advance)}>'
        f'<div class="fp-progress-line"><span class="fp-progress-text">{escape(text)}</span>{right}'
        f'<span class="fp-progress-number" aria-hidden="true">{percent}&thinsp;%</span></div>'
        '<div class="fp-progress-track" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" aria-label="{label or "Progress"}">'
        f'<div class="fp-progress-fill" style="width:{percent}%"></div></div></div>'
    )


def _data(advance: Advance | None) -> str:
    """Return the attributes that page.js reads."""
    if advance is None:
        return ""
    left = "" if advance.left is None else f' data-left="{advance.left:.2f}"'
    return (
        f' data-from="{advance.start:.2f}" data-to="{advance.percent:.2f}" data-seconds="{advance.seconds:.2f}"{left}'
    )


def make_progress_bar_css() -> str:
    """Return the style sheet that `make_progress_bar_html` needs; put it into the page once."""
    return _CSS
