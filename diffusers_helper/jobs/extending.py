"""More seconds for a video that is done, from the latents that were kept with it.

F1 samples forward and no section knows how many follow, so a video that is made longer is the longer video, bit for
bit. The original variant begins with the ending: it has sampled the last section first, and nothing can follow that.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from diffusers_helper.core.directing import direct
from diffusers_helper.core.errors import FramePackError, SettingsError, UnknownJobError
from diffusers_helper.core.files import display_name, output_error
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import FPS, LATENT_WINDOW, START, sections_for
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.media.names import let_go, numbered, reserve
from diffusers_helper.media.partials import CONDITIONS, ENVIRONMENT, partial_file, section_files


def longer_request(
    request: GenerationRequest,
    seconds: float,
    pictures: Collection[str] = (START,),
    videos: Mapping[str, object] | None = None,
) -> GenerationRequest:
    """Return `request` with `seconds` more, to the nearest section; raises SettingsError where that cannot be."""
    sections = request.sections + sections_for(seconds)
    longer = GenerationRequest.from_fields(request.model_dump() | {"seconds": sections * 4 * LATENT_WINDOW / FPS})
    made = direct(request, pictures, videos).plan.sections
    if direct(longer, pictures, videos).plan.sections[: len(made)] != made or request.replaced is not None:
        raise SettingsError(
            Message(
                "This video cannot be made longer: its ending was sampled first, or leads to a picture. "
                "Make a new one with more seconds, or use F1 without an end picture."
            )
        )
    return longer


def begin_longer(store: JobStore, job_id: str, new_id: str, seconds: float) -> JobRecord:
    """Make a new job that goes on where the finished `job_id` ended; the old one stays as it is.

    Raises UnknownJobError, SettingsError where it cannot be, and OutputError.
    """
    try:
        record = store.record(job_id)
    except UnknownJobError:
        raise UnknownJobError(
            Message(
                "There are no latents of {name}: only a video made with --keep latents can be made longer by its name. "
                "To go on from its last frames, give its file.",
                name=display_name(job_id),
            )
        ) from None
    if record.state != "done":
        raise SettingsError(Message("The video {name} is not done: go on with it first.", name=job_id))
    request = longer_request(record.request, seconds, record.pictures, record.videos)
    results = store.folder.parent
    finished = store.results_of(record)
    stem = finished.with_name(reserve(finished.parent, numbered(finished.name)))
    output = stem.relative_to(results).as_posix()
    longer = JobRecord(
        new_id, request, output=output, models=record.models, owner=record.owner, client_id=record.client_id
    )
    video = finished.with_name(f"{finished.name}.mp4")
    needed = [*section_files(folder := store.path(job_id)).values(), folder / CONDITIONS, folder / ENVIRONMENT]
    try:
        inputs = store.inputs(job_id)
        store.add(longer, inputs.pictures, inputs.videos)
        for file in filter(Path.is_file, needed):
            _link(file, store.path(new_id) / file.name)
        if video.is_file() and not record.videos:  # otherwise it is decoded again
            _link(video, partial_file(stem, record.request.sections))
    except (OSError, FramePackError) as error:
        store.discard(new_id)
        let_go(stem)
        if isinstance(error, OSError):
            raise output_error(store.path(new_id), error) from error
        raise
    return store.record(new_id)


def _link(source: Path, target: Path) -> None:
    """Give a file that nobody changes a second name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
