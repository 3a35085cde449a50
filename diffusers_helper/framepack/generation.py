"""From a request and a photo to a video file: the stages around the engine, each announced as an event.

It knows which model is needed when, and neither threads, queues nor pages. Files of one video, all beside each other:
``STEM.png`` (the photo as the models see it), ``STEM.json`` (the request), ``STEM_partial_NN.mp4`` while it grows and
``STEM.mp4`` at the end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from diffusers_helper.bucket_tools import find_nearest_bucket
from diffusers_helper.components import Components
from diffusers_helper.framepack.conditions import Check, make_conditions
from diffusers_helper.framepack.engine import Events, sample_video
from diffusers_helper.framepack.events import Event, Finished, Note, SectionDone, StageStarted, VideoGrown
from diffusers_helper.framepack.interrupt import interruptible
from diffusers_helper.framepack.planning import VideoPlan, plan_video
from diffusers_helper.framepack.request import GenerationRequest
from diffusers_helper.framepack.variants import variant_named
from diffusers_helper.hunyuan import vae_encode
from diffusers_helper.media.files import output_error, require_free_space, whole_file
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.photo import Photo, resize_and_center_crop
from diffusers_helper.memory import out_of_memory_as_error

BYTES_PER_PIXEL = 0.5
"""Generous guess of an MP4's size, for the check before the start."""


def generate(
    request: GenerationRequest,
    photo: Photo,
    *,
    components: Components,
    output: Path,
    check: Check = lambda: None,
) -> Generator[Event, None, None]:
    """Make one video.

    Args:
        request: the settings; a seed of -1 is drawn here.
        photo: the start picture.
        components: the models.
        output: the files' stem, for example ``outputs/20261122_101500_123``.
        check: called between layers of long calls; it may raise (CancelledError, say) to stop there.

    Yields events up to Finished. Raises a FramePackError for all that a user can mend; closing the iterator stops the
    work and keeps the sections that were done.
    """
    with out_of_memory_as_error():
        yield from _stages(request.with_seed(), photo, components, output, check)


def _stages(
    request: GenerationRequest, photo: Photo, components: Components, output: Path, check: Check
) -> Generator[Event, None, None]:
    components.preserve_memory(request.preserved_memory_gb)
    picture = _prepare(request, photo, components, output)
    for text in (*photo.notes, *_notes_on(request)):
        yield Note(text)
    conditions = yield from make_conditions(request, picture, components, check)
    yield StageStarted("image", "Encoding the photo")
    with components.vae() as vae, interruptible(vae, check):
        start_latent = vae_encode(_pixels_of(picture), vae, torch.Generator("cpu").manual_seed(request.seed))
    yield StageStarted("load", f"Loading the {variant_named(request.variant).title} transformer")
    transformer = components.transformer(request.variant)

    @contextmanager
    def use(module: nn.Module) -> Iterator[None]:
        with components.residency.use(module, swap=module is transformer), interruptible(module, check):
            yield

    plan = plan_video(request.variant, request.sections)
    video = GrowingVideo(output, plan.grows_at_front, request.crf)
    yield from sample_video(
        plan,
        transformer=transformer,
        vae=vae,
        start_latent=start_latent,
        conditions=conditions,
        seed=request.seed,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        cfg_scale=request.cfg_scale,
        cfg_rescale=request.cfg_rescale,
        teacache=request.teacache,
        device=components.device,
        dtype=transformer.dtype,
        use=use,
        overlap=components.policy.resident and components.device.type == "cuda",  # a CPU has nothing left to do it with
        then=lambda events, stopped: _saved(events, video, plan, (check, stopped)),
    )
    yield Finished(video.finish(), video.frames)


def _saved(events: Events, video: GrowingVideo, plan: VideoPlan, checks: tuple[Check, Check]) -> Events:
    """Let ``video`` grow with each section that ``events`` finish."""

    def check() -> None:
        for one in checks:
            one()

    for event in events:
        yield event
        if isinstance(event, SectionDone) and event.pixels is not None:
            yield StageStarted("save", "Writing the video")
            path = video.add(event.pixels, plan.sections[event.index].overlap_pixels, check=check)
            yield VideoGrown(path, video.frames, event.index + 1)


def _prepare(request: GenerationRequest, photo: Photo, components: Components, output: Path) -> NDArray[np.uint8]:
    """Bring the photo to its bucket and keep it with the request; returns the picture, (H, W, 3)."""
    resolution = request.resolution or components.defaults.resolution
    height, width = find_nearest_bucket(photo.image.height, photo.image.width, resolution)
    picture = resize_and_center_crop(np.asarray(photo.image), width, height)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        require_free_space(output.parent, int(BYTES_PER_PIXEL * height * width * request.total_frames))
        with whole_file(output.with_name(f"{output.name}.png")) as part:
            Image.fromarray(picture).save(part, format="PNG")
        with whole_file(output.with_name(f"{output.name}.json")) as part:
            part.write_text(request.to_json(), encoding="utf-8")
    except OSError as error:
        raise output_error(output.parent, error) from error
    return picture


def _notes_on(request: GenerationRequest) -> Iterator[str]:
    if request.crf != request.mp4_crf:
        yield f"MP4 compression {request.mp4_crf} was set to {request.crf}: browsers play 1 to 51."
    if request.negative_prompt and request.cfg_scale == 1.0:
        yield "The negative prompt has no effect while CFG is 1."


def _pixels_of(picture: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, 1, H, W) float32 in -1..1."""
    return (torch.from_numpy(picture).float() / 127.5 - 1).permute(2, 0, 1)[None, :, None]
