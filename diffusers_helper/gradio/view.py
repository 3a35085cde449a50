"""Sentences of the page as HTML that several regions have, as pure functions; they know neither Gradio nor handlers.

Gradio shows HTML as it comes, so every text that a user or a file name may have shaped passes `escape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.prompts import timed_prompts
from diffusers_helper.jobs.job import public_name
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.media import export

QUARANTINED_SHOWN = 20
FORMS = tuple(ending.removeprefix(".") for ending in export.FORMS)
"""What a video can be exported as, beside the MP4 that it is; PNG is its last frame."""


def fault(message: str, *, heard: bool = True) -> str:
    """Return an error message that belongs to what the user entered; empty for none.

    Screen readers say it at once if it is to be `heard`, which one about an entry that grows with every key is not.
    """
    role = ' role="alert"' if heard else ""
    return f'<p class="fp-fault"{role}>{escape(message)}</p>' if message else ""


def hint(html: str) -> str:
    """Return a sentence in small print."""
    return f'<p class="fp-hint">{html}</p>'


def in_words(prompt: str) -> str:
    """Return a prompt as people read it: its texts in turn, without their times."""
    try:
        texts = [text for _, text in timed_prompts(prompt) if text.strip()]
    except SettingsError:  # times that only another version understands
        return prompt
    return " → ".join(texts)


def quarantined(aside: Sequence[tuple[str, str]], t: Language = ENGLISH) -> str:
    """Return the notice of records that cannot be used, each a name and a reason; empty for none.

    Everybody sees it, so that it tells of a name only what anybody may know.
    """
    if not aside:
        return ""
    text = t(
        "Records of videos that cannot be read: {count}. Nothing was deleted: they are in jobs/quarantine, in the "
        "folder of the results.",
        count=len(aside),
    )
    rows = "".join(f"<li>{escape(public_name(name))} {escape(t(why))}</li>" for name, why in aside[:QUARANTINED_SHOWN])
    return f'<details class="fp-note" role="note"><summary>{escape(text)}</summary><ul>{rows}</ul></details>'


def file_url(path: str | Path) -> str:
    """Return where a file among uploads or results is, from the page."""
    return f"gradio_api/file={quote(str(path))}"


def rounded(found: Estimate) -> int:
    """Return about how many seconds a job takes, as exactly as anybody can know."""
    return max(5, 5 * round(found.seconds / 5)) if found.seconds < 55 else 60 * round(found.seconds / 60)


def duration(seconds: float, t: Language = ENGLISH) -> str:
    """Return a time that is easy to read at a glance: "8 s", "2 min 5 s", "1 h 3 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return t("{seconds} s", seconds=whole)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        exact = rest and minutes < 10
        return (
            t("{minutes} min {seconds} s", minutes=minutes, seconds=rest)
            if exact
            else t("{minutes} min", minutes=minutes)
        )
    return t("{hours} h {minutes} min", hours=minutes // 60, minutes=minutes % 60)
