"""What the stage shows, as pure functions from a job's snapshot to HTML; see `gradio.view`."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from math import floor

from PIL import Image

from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.plan import FPS, LATENT_WINDOW
from diffusers_helper.core.variants import variant_named
from diffusers_helper.gradio.progress_bar import Advance, make_progress_bar_html
from diffusers_helper.gradio.view import duration
from diffusers_helper.jobs.progress import JobSnapshot

ALMOST = 99
"""Percent that a bar shows at most while there is work left."""


def stage(job: JobSnapshot | None, t: Language = ENGLISH) -> str:
    """Return the picture side of a job: its preview, or what it waits for; empty once only the video matters."""
    if job is None or (job.ended and not job.video):
        title, steps = t("Your video appears here"), t("Add a photo, say what should happen, press Start.")
        return f'<div class="fp-stage fp-empty"><strong>{title}</strong><span>{steps}</span></div>'
    if job.preview is not None:
        alone = is_picture(job)
        caption = t("A rough preview of the picture") if alone else t("A rough preview of the part being made")
        small = job.video is not None and not alone
        return _film(job.preview, caption, small=small, frames=1 if alone else LATENT_WINDOW)
    if job.video:
        return ""
    return f'<div class="fp-stage fp-empty fp-working"><strong>{_doing(job, t)}</strong></div>'


def progress(job: JobSnapshot | None, t: Language = ENGLISH, now: float = 0.0) -> str:
    """Return the status sentence and, while sections are being made, a bar for the section and one for the video.

    `now` is in seconds since the epoch: since the job's last event the bars went on, as they do in the browser.
    """
    if job is None:
        return ""
    if job.state == "failed":
        return f'<p class="fp-status fp-failed" role="alert">{escape(t(job.error))}</p>'
    status = f'<p class="fp-status">{_doing(job, t)}</p>'
    if job.ended or not job.section:
        return status
    whole = "" if is_picture(job) else _video_bar(job, t, now)
    return f'{status}<div class="fp-bars">{_section_bar(job, t, now)}{whole}</div>'


def is_picture(job: JobSnapshot) -> bool:
    """Tell whether a job makes a single picture and no video."""
    return job.request is not None and job.request.frame


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
        "failed": t("This video did not get done. Go on with it?"),
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


def _film(jpeg: bytes, caption: str, *, small: bool, frames: int) -> str:
    """Play the latent frames, side by side in `jpeg`, in place: a section's 9 are 1.2 s."""
    with Image.open(BytesIO(jpeg)) as strip:
        width, height = strip.size
    shape = f"--fp-shape: {width / frames / height:.4f}; --fp-frames: {frames}"
    return (
        f'<figure class="fp-stage{" fp-small" if small else ""}"><div class="fp-film" style="{shape}">'
        f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode("ascii")}" '
        f'alt=""></div><figcaption>{caption}</figcaption></figure>'
    )


def _doing(job: JobSnapshot, t: Language) -> str:
    if job.state == "queued":
        return t("Next in line") if job.position == 1 else t("Waiting; {number} before yours", number=job.position - 1)
    stopping = "" if job.stage == "wait" else job.stopping  # what it waits for is the user's to mend first
    return escape(t(stopping or job.description)) or t("Starting")


def _section_bar(job: JobSnapshot, t: Language, now: float) -> str:
    text = t(
        "Section {section} of {sections}, step {step} of {steps}",
        section=job.section,
        sections=job.sections,
        step=job.step,
        steps=job.steps,
    )
    ending = job.step == job.steps and job.section_progress < 1  # only this may take much longer than a poll
    return _bar(job, text, now, job.section_progress, 1.0 if ending else job.section_progress)


def _video_bar(job: JobSnapshot, t: Language, now: float) -> str:
    if job.eta_seconds is None or job.stopping:
        return _bar(job, t("Whole video"), now, job.total_progress, job.total_progress)
    left = max(0.0, job.eta_seconds - _passed(job, now))
    last = job.eta_now_seconds == job.eta_seconds  # nothing comes after what is being done
    text = (
        t("Whole video, about {time} left", time=duration(left, t))
        if left >= 1 or not last
        else t("Whole video, nearly done")
    )
    share = (job.eta_now_seconds or 0.0) / job.eta_seconds if job.eta_seconds else 1.0
    return _bar(job, text, now, job.total_progress, job.total_progress + (1 - job.total_progress) * share, left)


def _bar(job: JobSnapshot, text: str, now: float, start: float, end: float, left: float | None = None) -> str:
    """Return a bar that goes from `start` to `end` (0 to 1) while what is being done now should last."""
    span, passed, done = job.eta_now_seconds or 0.0, _passed(job, now), start >= 1
    if span:
        start += (end - start) * passed / span
    percent = 100 if done else min(floor(100 * start), ALMOST)
    moves = not done and (left is not None or (span > passed and end > start))
    return make_progress_bar_html(
        percent, text, Advance(100 * start, 100 * end, span - passed, left) if moves else None
    )


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
    facts.append(t("seed {seed}", seed=job.seed))
    if job.video and job.started and job.finished:
        facts.append(t("made in {time}", time=duration(job.finished - job.started, t)))
    return f"<p>{' · '.join(facts)}</p>"
