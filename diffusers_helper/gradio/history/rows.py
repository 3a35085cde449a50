"""A page of the history as the grid shows it: texts in the page's language, and where pictures and videos are."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diffusers_helper.core.messages import Language
from diffusers_helper.core.variants import variant_named
from diffusers_helper.gradio.view import duration, file_url, in_words
from diffusers_helper.history.entry import Entry
from diffusers_helper.history.library import Page
from diffusers_helper.history.marks import BEST
from diffusers_helper.history.query import PAGE, Search

_SHOWN = 300
"""Characters of a prompt on a card."""


def literal(text: str) -> str:
    """Return a text as the grid's template has to get it: Gradio puts that into a JavaScript literal and runs it."""
    return re.sub(r"[\\$]", r"\\\g<0>", text)


def poster_url(entry: Entry) -> str:
    """Return where the small picture of a video is, from the page; another one for another version of it."""
    return f"gradio_api/poster/{quote(entry.id)}?v={quote(entry.file[-40:])}"


def states(t: Language) -> dict[str, str]:
    """Return the words for the states."""
    return {
        "done": t("Done"),
        "unfinished": t("Not finished"),
        "cancelled": t("Stopped"),
        "failed": t("Failed"),
        "interrupted": t("Interrupted"),
    }


def row(entry: Entry, outputs: Path, t: Language) -> dict[str, Any]:
    """Return what the grid is told of one video."""
    moving = bool(entry.file) and not entry.picture and not entry.deleted
    day = f"{datetime.fromtimestamp(entry.at):%Y-%m-%d %H:%M}"
    said = in_words(entry.prompt)
    prompt = said if len(said) <= _SHOWN else f"{said[:_SHOWN]}…"
    length = [] if entry.picture else [duration(entry.seconds, t), t(variant_named(entry.variant).choice)]
    facts = [day, *length, t("seed {seed}", seed=entry.seed)]
    if entry.draft:
        facts.append(t("draft"))
    note = "" if entry.state == "done" else states(t)[entry.state]
    return {
        "id": entry.id,
        "name": literal(t("Open: {prompt}", prompt=prompt or day)),
        "prompt": literal(prompt),
        "facts": " · ".join(facts),
        "note": t("{state}, can go on", state=note) if note and entry.resumable and entry.file else note,
        "error": literal(t(entry.error)[:_SHOWN]),
        "poster": poster_url(entry),
        "url": file_url(outputs / entry.file) if moving or (entry.picture and entry.file and not entry.deleted) else "",
        "download": literal(Path(entry.file).name),
        "video": moving,
        "draft": entry.draft and entry.state == "done",
        "rating": entry.rating,
        "starred": entry.starred,
        "stars": [{"number": number, "on": number <= entry.rating} for number in range(1, BEST + 1)],
        "resumable": entry.resumable and not entry.deleted,
        "resume": t("Go on") if entry.file else t("Start again"),
        "deleted": entry.deleted > 0,
    }


def grid(page: Page, wanted: Search, outputs: Path, t: Language, **more: Any) -> dict[str, Any]:
    """Return the value of the grid; `more` is what else it tells."""
    pages = max(1, -(-page.count // PAGE))
    told = t("1 video") if page.count == 1 else t("{count} videos", count=page.count)
    if page.building:
        told = t("{told}; older ones are still being read", told=told)
    if page.note:
        told = f"{told} · {t(page.note)}"
    return {
        "videos": [row(entry, outputs, t) for entry in page.entries],
        "told": told,
        "building": page.building,
        "place": t("Page {page} of {pages}", page=wanted.page, pages=pages),
        "before": wanted.page - 1 if wanted.page > 1 else 0,
        "after": wanted.page + 1 if wanted.page < pages else 0,
        "page": wanted.page,
        "turn": 0,
        "trash": wanted.deleted and page.count > 0,
        "undo": "",
        **more,
        "fault": literal(str(more.get("fault", ""))),
    }
