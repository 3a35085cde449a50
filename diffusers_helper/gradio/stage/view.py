"""What the stage shows, as pure functions from a job's snapshot to HTML; see `gradio.view`."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import cache
from html import escape
from io import BytesIO
from math import floor
from pathlib import Path

from PIL import Image

from diffusers_helper.core.drafts import is_draft
from diffusers_helper.core.errors import OUT_OF_MEMORY
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.plan import FPS, LATENT_WINDOW
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.variants import variant_named
from diffusers_helper.gradio.progress_bar import Advance, make_progress_bar_html
from diffusers_helper.gradio.view import FORMS, duration, file_url
from diffusers_helper.jobs.progress import JobSnapshot

ALMOST = 99
"""Percent that a bar shows at most while there is work left."""


def stage(job: JobSnapshot | None, t: Language = ENGLISH) -> str:
    """Return the picture side of a job: its preview, or what it waits for; empty once only the video matters."""
    if job is None or (job.ended and not job.video):
        title, steps = (
            t("A photo and a few words become a video."),
            t("Add a photo, say what should happen, press Start."),
        )
        here = t("Your video appears here")
        return f'<div class="fp-stage fp-empty"><strong>{here}</strong><span>{title}</span><span>{steps}</span></div>'
    if job.preview is not None:
        alone = is_picture(job)
        caption = t("A rough preview of the picture") if alone else t("A rough preview of the part being made")
        small = job.video is not None and not alone
        return _film(job.preview, caption, small=small, frames=1 if alone else LATENT_WINDOW)
    if job.video:
        return ""
    return f'<div class="fp-stage fp-empty fp-working"><strong>{_doing(job, t)}</strong></div>'


def progress(job: JobSnapshot | None, t: Language = ENGLISH, now: float = 0.0) -> str:
    """Return one line of what is done: a sentence or, while sections are being made, a bar with the time left.

    `now` is in seconds since the epoch: since the job's last event the bar went on, as it does in the browser. The
    line's `data-title` is for the page's title and for the bar of a phone.
    """
    if job is None:
        return ""
    if job.state == "failed":
        return f'<p class="fp-status fp-failed" role="alert">{escape(t(job.error))}</p>'
    doing = _doing(job, t)
    if job.ended or not job.section:
        title = "" if job.ended else f' data-title="{doing}"'
        return f'<p class="fp-status"{title}>{doing}</p>'
    bar, title = _bar(job, t, now)
    front = " data-front" if _grows_at_front(job.variant) else ""
    return f'<div data-title="{escape(title)}"{front}><p class="fp-status fp-heard">{doing}</p>{bar}</div>'


def ended(jobs: Iterable[JobSnapshot], t: Language = ENGLISH) -> str:
    """Return a mark of the newest of a client's jobs that is done or failed, which page.js tells of; empty for none."""
    over = [job for job in jobs if job.state in ("done", "failed")]
    if not over:
        return ""
    job = max(over, key=lambda job: job.finished or 0.0)
    text = t("Your video is done.") if job.state == "done" else t("Your video did not get done.")
    return f'<span hidden data-ended="{escape(job.id)}" data-text="{escape(text)}"></span>'


@cache
def _grows_at_front(variant: str) -> bool:
    """Tell whether each new section of a video comes before what there is already."""
    return plan_video(variant, 1).grows_at_front


def is_picture(job: JobSnapshot) -> bool:
    """Tell whether a job makes a single picture and no video."""
    return job.request is not None and job.request.frame


def _is_draft(job: JobSnapshot) -> bool:
    return job.request is not None and is_draft(job.request.model_dump())


def advice(job: JobSnapshot | None) -> bool:
    """Tell whether a job failed for want of memory, which the page can do something about."""
    return job is not None and job.state == "failed" and str(job.error) == str(OUT_OF_MEMORY)


def actions(job: JobSnapshot | None, t: Language = ENGLISH) -> str:
    """Return what can be done with a video that is whole or was stopped, as buttons; empty where there is none."""
    if job is None or not job.ended or not job.video or is_picture(job):
        return ""
    name = escape(Path(job.video).name)
    first = f'<a href="{escape(file_url(job.video))}" download="{name}">{t("Download")}</a>'
    named = {"extend": t("Extend"), "new_take": t("New take"), "last_frame": t("Last frame as photo")}
    if _is_draft(job) and job.state == "done":
        named["full"] = t("Make it in full")
    named["use_settings"] = t("Use settings")
    buttons = "".join(f'<button type="button" data-action="{word}">{text}</button>' for word, text in named.items())
    forms = "".join(
        f'<button type="button" data-action="export" data-form="{form}">{form.upper()}</button>' for form in FORMS
    )
    more = f"<details><summary>{t('Export')}</summary><div>{forms}</div></details>"
    label = escape(t("What to do with the video"))
    return f'<div class="fp-actions" role="group" aria-label="{label}" data-id="{job.id}">{first}{buttons}{more}</div>'


def details(job: JobSnapshot | None, t: Language = ENGLISH) -> str:
    """Return what there is to know about the video so far, and the notes."""
    if job is None:
        return ""
    whole = job.ended or job.sections == 1  # no section is made before another one
    about_variant = "" if whole else f"<p>{escape(t(variant_named(job.variant).note))}</p>"
    notes = "".join(f'<div class="fp-note" role="note">{escape(t(note))}</div>' for note in job.notes)
    return f'<div class="fp-details">{_facts(job, t)}{notes}{about_variant}</div>'


def unfinished(job: JobSnapshot | None, t: Language = ENGLISH) -> str:
    """Return the card of a video that can go on: its photo, its settings, how far it is, and what has changed since."""
    if job is None or job.request is None:
        return ""
    asked = {
        "interrupted": t("An unfinished video was found. Go on with it?"),
        "failed": t("This video did not get done. Go on with it?")
        if job.sections_kept
        else t("This video did not get done. Start it again?"),
    }.get(job.state, t("This video was stopped. Go on with it?"))
    request = job.request
    done = t("{done} of {sections} sections are done.", done=job.sections_kept, sections=job.sections)
    settings = t(
        "{seconds:.1f} s, {steps} steps, seed {seed}",
        seconds=request.total_seconds,
        steps=request.steps,
        seed=request.seed,
    )
    picture = f'<img src="{escape(job.thumbnail)}" alt="">' if job.thumbnail else ""
    env_warning = f'<div class="fp-note" role="note">{escape(t(job.env_warning))}</div>' if job.env_warning else ""
    return (
        f'<div class="fp-card" role="group">{picture}<div><strong>{asked}</strong><p>{escape(request.prompt)}</p>'
        f"<p>{settings}</p><p>{done}</p></div></div>{env_warning}"
    )


def resume_label(job: JobSnapshot | None, t: Language = ENGLISH) -> str:
    """Return what is on the button of that card."""
    again = job is not None and job.state == "failed" and not job.sections_kept
    return t("Start again") if again else t("Go on")


def _film(jpeg: bytes, caption: str, *, small: bool, frames: int) -> str:
    """Play the latent frames, side by side in `jpeg`, in place: a section's 9 are 1.2 s."""
    with Image.open(BytesIO(jpeg)) as strip:
        width, height = strip.size
    shape = f"--fp-shape: {width / frames / height:.4f}; --fp-frames: {frames}"
    return (
        f'<figure class="fp-stage{" fp-inset" if small else ""}"><div class="fp-film" style="{shape}">'
        f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode("ascii")}" '
        f'alt=""></div><figcaption>{caption}</figcaption></figure>'
    )


def _doing(job: JobSnapshot, t: Language, *, escaped: bool = True) -> str:
    if job.state == "queued":
        return t("Next in line") if job.position == 1 else t("Waiting; {number} before yours", number=job.position - 1)
    stopping = "" if job.stage == "wait" else job.stopping  # what it waits for is the user's to mend first
    text = t(stopping or job.description) or t("Starting")
    return escape(text) if escaped else text


def _bar(job: JobSnapshot, t: Language, now: float) -> tuple[str, str]:
    """Return the bar, and in short what it says."""
    alone, passed = is_picture(job), _passed(job, now)
    start = job.section_progress if alone else job.total_progress
    left = None if job.stopping or job.eta_seconds is None else max(0.0, job.eta_seconds - passed)
    share = (job.eta_now_seconds or 0.0) / job.eta_seconds if job.eta_seconds else 1.0
    end = start if left is None else start + (1 - start) * share
    span, done = job.eta_now_seconds or 0.0, start >= 1
    here = start + (end - start) * passed / span if span else start
    percent = 100 if done else min(floor(100 * here), ALMOST)
    moves = not done and (left is not None or (span > passed and end > here))
    html = make_progress_bar_html(
        percent,
        _doing(job, t, escaped=False) if job.stage != "sample" or job.stopping else _step(job, t),
        Advance(100 * here, 100 * end, span - passed, left) if moves else None,
        "" if left is None else _left(job, left, t),
    )
    return html, f"{percent} %" if left is None else f"{percent} % · {duration(left, t)}"


def _step(job: JobSnapshot, t: Language) -> str:
    step = {"step": job.step, "steps": job.steps}
    if job.sections == 1:
        return t("Step {step} of {steps}", **step)
    return t(
        "Section {section} of {sections}, step {step} of {steps}", section=job.section, sections=job.sections, **step
    )


def _left(job: JobSnapshot, left: float, t: Language) -> str:
    last = job.eta_now_seconds == job.eta_seconds  # nothing comes after what is being done
    return t("about {time} left", time=duration(left, t)) if left >= 1 or not last else t("nearly done")


def _passed(job: JobSnapshot, now: float) -> float:
    """Return the seconds since the job's last event, as far as what is being done was to last that long."""
    return min(max(0.0, now - (job.eta_at or now)), job.eta_now_seconds or 0.0)


def _facts(job: JobSnapshot, t: Language) -> str:
    facts = []
    length = {"frames": job.frames, "seconds": job.frames / FPS}
    if is_picture(job):
        pass  # which has no length
    elif job.video and job.partial:
        facts.append(t("{frames} of {total} frames, {seconds:.2f} s", total=job.total_frames, **length))
    elif job.video:
        facts.append(t("{frames} frames, {seconds:.2f} s", **length))
        if job.frames > job.total_frames:  # with those of given videos
            facts.append(t("{frames} of them new", frames=job.total_frames))
    if _is_draft(job):
        facts.append(t("draft"))
    facts.append(t("seed {seed}", seed=job.seed))
    if job.video and job.started and job.finished:
        facts.append(t("made in {time}", time=duration(job.finished - job.started, t)))
    return f"<p>{' · '.join(facts)}</p>"
