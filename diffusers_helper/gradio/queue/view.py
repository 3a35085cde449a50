"""What the strip shows of jobs that wait, as HTML; queue.js makes its buttons and its rows work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.plan import FPS
from diffusers_helper.core.variants import variant_named
from diffusers_helper.gradio.view import duration, in_words, rounded
from diffusers_helper.jobs.job import public_name
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.speeds import Estimate

SHOWN = 50
"""Rows that are drawn at first, and that one press of the button below them adds."""
_WORDS = 80


@dataclass(frozen=True)
class Row:
    """A job that waits: its place among its user's own, from 1, and how long it will take, if that is known."""

    job: JobSnapshot
    place: int
    estimate: Estimate | None = None


def head(jobs: Sequence[JobSnapshot], *, paused: bool, t: Language = ENGLISH) -> str:
    """Return the heading: how many wait, what runs, and the buttons for all of them, where there are some."""
    waiting = sum(job.state == "queued" for job in jobs)
    title = t("Queue: {waiting} waiting", waiting=waiting) if waiting else t("Queue")
    pause = _button("pause", t("Pause"), "") if jobs else ""
    if paused:
        pause = _button("continue", t("Continue"), "")
    ask = t("Remove all {waiting} waiting videos?", waiting=waiting)
    clear = _button("clear", t("Remove all"), "", ask=ask) if waiting else ""
    about = t("Paused: nothing new begins. Once no video is being made, the models leave the memory until one is.")
    told = about if paused else ""
    note = f'<p class="fp-hint" role="status">{told}</p>' if told else ""
    runs = "".join(_running(job, t) for job in jobs if job.state == "running")
    return f'<div class="fp-queue-head"><h2>{title}</h2>{pause}{clear}</div>{note}{runs}'


def rows(shown: Sequence[Row], more: int, t: Language = ENGLISH) -> str:
    """Return the rows of jobs that wait, and how many `more` there are."""
    items = "".join(_row(row, t) for row in shown)
    below = f'<p class="fp-hint">{_button("more", t("Show {more} more", more=more), "")}</p>' if more else ""
    if not items:
        return f'<p class="fp-hint">{t("Nothing waits. While a video is made, Start adds the next one here.")}</p>'
    return f'<ol class="fp-queue" aria-label="{escape(t("Waiting videos"))}">{items}</ol>{below}'


def editing(job: JobSnapshot | None, t: Language = ENGLISH) -> str:
    """Return what is said while the form shows a job that waits; empty while it shows none."""
    if job is None:
        return ""
    text = escape(
        t(
            "The form shows “{words}”. Change it, then save; until then it does not begin. What was in the form comes "
            "back afterwards.",
            words=words(job),
        )
    )
    return f'<div class="fp-note" role="status">{text}</div>'


def words(job: JobSnapshot) -> str:
    """Return what people know a job by: its prompt, or else its photo's name."""
    said = (in_words(job.request.prompt) if job.request else "") or job.photo_name or public_name(job.id)
    return said if len(said) <= _WORDS else f"{said[: _WORDS - 1]}…"


def _running(job: JobSnapshot, t: Language) -> str:
    show = _button("show", t("Show"), "", job=job.id)
    later = _button("stop-later", t("End after this section"), "", job=job.id) if not job.stopping else ""
    said = f"{escape(words(job))} · {job.total_progress:.0%}"
    return f'<p class="fp-queue-running" data-job="{escape(job.id)}">{_icon(job)}<span>{said}</span>{show}{later}</p>'


def _row(row: Row, t: Language) -> str:
    job, said = row.job, words(row.job)
    name = {"words": said}
    facts = [
        t("{seconds:.1f} s", seconds=job.total_frames / FPS),
        t(variant_named(job.variant).choice),
        *_time(row.estimate, t),
        _state(job, t),
    ]
    buttons = [
        _button("up", t("Earlier: {words}", **name), "↑", job=job.id),
        _button("down", t("Later: {words}", **name), "↓", job=job.id),
        _button("edit", t("Edit: {words}", **name), "✎", job=job.id),
        _button("duplicate", t("Duplicate: {words}", **name), "×2", job=job.id),
        _button("remove", t("Remove: {words}", **name), "✕", job=job.id),
    ]
    return (
        f'<li class="fp-queued{" fp-held" if job.held else ""}" data-job="{escape(job.id)}" data-place="{row.place}" '
        f'draggable="true"><span class="fp-place">{row.place}</span>{_icon(job)}'
        f"<div><strong>{escape(said)}</strong><span>{' · '.join(filter(None, facts))}</span></div>"
        f'<div class="fp-queue-buttons">{"".join(buttons)}</div></li>'
    )


def _time(found: Estimate | None, t: Language) -> list[str]:
    if found is None:
        return []
    return [t("about {time}", time=duration(rounded(found), t))]


def _state(job: JobSnapshot, t: Language) -> str:
    return t("being changed") if job.held else ""


def _icon(job: JobSnapshot) -> str:
    return (
        f'<img src="{escape(job.icon)}" alt="" draggable="false">' if job.icon else '<span class="fp-no-icon"></span>'
    )


def _button(action: str, label: str, sign: str, *, job: str = "", ask: str = "") -> str:
    """Return a button with `sign` on it, or else its label; `job` is whose it is, `ask` a question before it acts."""
    label = escape(label)
    about = "".join(f' data-{name}="{escape(value)}"' for name, value in (("of", job), ("ask", ask)) if value)
    named = f' aria-label="{label}" title="{label}"' if sign else ""
    return f'<button type="button" data-action="{action}"{about}{named}>{sign or label}</button>'
