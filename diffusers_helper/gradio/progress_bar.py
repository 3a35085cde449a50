"""A progress bar as HTML and CSS, in the colours of whatever Gradio theme is in use, light or dark."""

from __future__ import annotations

from html import escape

_CSS = """
.fp-progress {
  display: flex; flex-direction: column; gap: 0.4em; padding: 0.25em 0; color: var(--body-text-color, CanvasText);
}
.fp-progress-line { display: flex; justify-content: space-between; gap: 1em; }
.fp-progress-text { overflow-wrap: anywhere; }
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


def make_progress_bar_html(number: float, text: str) -> str:
    """Return a bar filled to ``number`` percent (clamped to 0-100) below ``text``, which is escaped."""
    percent = round(min(max(number, 0), 100))
    label = escape(text)
    return (
        '<div class="fp-progress">'
        f'<div class="fp-progress-line"><span class="fp-progress-text">{label}</span>'
        f'<span class="fp-progress-number" aria-hidden="true">{percent}&thinsp;%</span></div>'
        '<div class="fp-progress-track" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" aria-label="{label or "Progress"}">'
        f'<div class="fp-progress-fill" style="width:{percent}%"></div></div></div>'
    )


def make_progress_bar_css() -> str:
    """Return the style sheet that ``make_progress_bar_html`` needs; put it into the page once."""
    return _CSS
