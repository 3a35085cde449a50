"""What the page shows, as pure functions from a job's snapshot to HTML; it knows neither Gradio nor handlers.

Gradio shows HTML as it comes, so every text that a user or a file name may have shaped passes ``escape`` here.
"""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO

from PIL import Image

from diffusers_helper.bucket_tools import find_nearest_bucket
from diffusers_helper.framepack.planning import FPS, LATENT_WINDOW, sections_for, total_frames
from diffusers_helper.framepack.variants import variant_named
from diffusers_helper.gradio.progress_bar import make_progress_bar_html
from diffusers_helper.progress import JobSnapshot

_EMPTY = "<strong>Your video appears here</strong><span>Add a photo, say what should happen, press Start.</span>"


def header(title: str, models_note: str) -> str:
    """Return the page's heading, with the note about the models in use where there is one."""
    note = f'<div class="fp-note" role="note">{escape(models_note)}</div>' if models_note else ""
    return f'<div class="fp-head"><h1>{escape(title)}</h1><p>A photo and a few words become a video.</p></div>{note}'


def length_hint(seconds: float) -> str:
    """Return the exact length that ``seconds`` leads to."""
    sections = sections_for(seconds)
    frames = total_frames(sections)
    parts = "1 section" if sections == 1 else f"{sections} sections"
    return _hint(f"The video will have <b>{frames} frames</b>, exactly <b>{frames / FPS:.2f} s</b>, made in {parts}.")


def size_hint(photo_size: tuple[int, int] | None, resolution: int) -> str:
    """Return the exact picture size for a photo of (width, height) pixels; a hint to add one for None."""
    if photo_size is None:
        return _hint("The photo becomes the first picture of the video.")
    height, width = find_nearest_bucket(photo_size[1], photo_size[0], resolution)
    return _hint(f"The video will be <b>{width} × {height}</b> pixels; the photo is cropped to fit.")


def fault(message: str) -> str:
    """Return an error message that belongs to what the user entered; empty for none."""
    return f'<p class="fp-fault" role="alert">{escape(message)}</p>' if message else ""


def stage(job: JobSnapshot | None) -> str:
    """Return the picture side of a job: its preview, or what it waits for; empty once only the video matters."""
    if job is None:
        return f'<div class="fp-stage fp-empty">{_EMPTY}</div>'
    if job.preview is not None:
        return _film(job.preview, small=job.video is not None)
    if job.ended or job.video:
        return ""
    return f'<div class="fp-stage fp-empty fp-working"><strong>{_doing(job)}</strong></div>'


def progress(job: JobSnapshot | None) -> str:
    """Return the status sentence and, while sections are being made, a bar for the section and one for the video."""
    if job is None:
        return ""
    if job.state == "failed":
        return f'<p class="fp-status fp-failed" role="alert">{escape(job.error)}</p>'
    status = f'<p class="fp-status" role="status">{_doing(job)}</p>'
    if job.ended or not job.section:
        return status
    bars = (
        make_progress_bar_html(
            round(100 * job.section_progress),
            f"Section {job.section} of {job.sections}, step {job.step} of {job.steps}",
        ),
        make_progress_bar_html(round(100 * job.total_progress), f"Whole video{_time_left(job)}"),
    )
    return f'{status}<div class="fp-bars">{"".join(bars)}</div>'


def details(job: JobSnapshot | None) -> str:
    """Return what there is to know about the video so far, and the notes."""
    if job is None:
        return ""
    about_variant = "" if job.ended else f"<p>{escape(variant_named(job.variant).note)}</p>"
    notes = "".join(f'<div class="fp-note" role="note">{escape(note)}</div>' for note in job.notes)
    return f'<div class="fp-details">{_facts(job)}{notes}{about_variant}</div>'


def duration(seconds: float) -> str:
    """Return a time that is easy to read at a glance: "8 s", "2 min 5 s", "1 h 3 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _film(jpeg: bytes, *, small: bool) -> str:
    """Play the latent frames, side by side in ``jpeg``, in place: a section's 9 are 1.2 s."""
    with Image.open(BytesIO(jpeg)) as strip:
        width, height = strip.size
    shape = f"--fp-shape: {width / LATENT_WINDOW / height:.4f}; --fp-frames: {LATENT_WINDOW}"
    return (
        f'<figure class="fp-stage{" fp-small" if small else ""}"><div class="fp-film" style="{shape}">'
        f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode("ascii")}" '
        'alt="Rough preview of the part being made"></div>'
        "<figcaption>A rough preview of the part being made</figcaption></figure>"
    )


def _doing(job: JobSnapshot) -> str:
    if job.state == "queued":
        return "Next in line" if job.position == 1 else f"Waiting; {job.position - 1} before yours"
    return escape(job.description) or "Starting"


def _time_left(job: JobSnapshot) -> str:
    return "" if job.eta_seconds is None else f", about {duration(job.eta_seconds)} left"


def _facts(job: JobSnapshot) -> str:
    facts = []
    if job.video:
        so_far = f" of {job.total_frames}" if job.partial else ""
        facts.append(f"{job.frames}{so_far} frames, {job.frames / FPS:.2f} s")
    facts.append(f"seed {job.seed}")
    if job.started and job.finished:
        facts.append(f"made in {duration(job.finished - job.started)}")
    return f"<p>{' · '.join(facts)}</p>"


def _hint(html: str) -> str:
    return f'<p class="fp-hint">{html}</p>'
