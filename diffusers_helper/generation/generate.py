"""From a request and a photo to a video file: the stages around the engine, each announced as an event.

It knows which model is needed when, and neither threads, queues nor pages. Files of one video, all beside each other:
`STEM.png` (the photo as the models see it), `STEM.json` (the request), `STEM_partial_NN.mp4` while it grows and
`STEM.mp4` at the end. With a checkpoint a video that was cut off goes on where it was, to the same bits.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from diffusers_helper.core.buckets import find_nearest_bucket
from diffusers_helper.core.events import (
    Event,
    Finished,
    Note,
    SectionDone,
    SectionSampled,
    StageStarted,
    VideoGrown,
)
from diffusers_helper.core.files import atomic_write, output_error, require_free_space
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import LATENT_WINDOW, START, VideoPlan
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.core.variants import variant_named
from diffusers_helper.encoders.hunyuan import vae_encode
from diffusers_helper.framepack.conditions import Conditions
from diffusers_helper.framepack.engine import VAE_SCALE, EarlierRun, Sampler, VideoInputs, one_sampler, sample_sections
from diffusers_helper.framepack.postprocess import Events, Postprocess
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.conditions import Check, make_conditions
from diffusers_helper.generation.decoding import ComponentsDecoder
from diffusers_helper.generation.disk_wait import retry_when_disk_full
from diffusers_helper.loading.components import Components
from diffusers_helper.media.frames import require_picture
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import resize_and_center_crop
from diffusers_helper.media.recipe import can_carry, png_comment, recipe_of
from diffusers_helper.media.tags import Tags
from diffusers_helper.memory import out_of_memory_as_error
from diffusers_helper.memory.budget import Work
from diffusers_helper.model_files.parts import VAE
from diffusers_helper.models.step_caches import STEP_CACHES

BLANK = 8
"""Levels between the darkest and the brightest value of a photo that shows nothing: its video may do the same."""
BYTES_PER_PIXEL = 0.5
"""Generous guess of an MP4's size while it grows, for the check before the start."""
CHECKPOINT_BYTES_PER_PIXEL = LATENT_WINDOW * 16 * 4 / 64
"""What a section's latents take: 16 channels of float32 for every 8 x 8 pixels."""


def generate(
    inputs: JobInputs,
    *,
    components: Components,
    output: Path,
    check: Check = lambda: None,
    checkpoint: Checkpoint | None = None,
    metadata: bool = True,
) -> Generator[Event, None, None]:
    """Make one video.

    Args:
        inputs: the settings, where a seed of -1 is drawn here, and the pictures.
        components: the models.
        output: the files' stem, for example `outputs/20261122_101500_123`.
        check: called between layers of long calls; it may raise (CancelledError, say) to stop there.
        checkpoint: what an earlier run of this very video kept; every sampled section is added to it.
        metadata: the picture and the video carry the request; see `media.recipe`.

    Yields events up to Finished; where the disk is full it waits. Raises a FramePackError for all that a user can mend;
    closing the iterator stops the work and keeps the sections that were done.
    """
    kept = Checkpoint(None) if checkpoint is None else checkpoint
    request = inputs.request.with_seed()
    request = request.model_copy(update={"resolution": request.resolution or components.source.defaults.resolution})
    inputs, recipe = replace(inputs, request=request), recipe_of(request) if metadata else ""
    with out_of_memory_as_error():
        yield from _stages(inputs, components, output, check, kept, recipe)


def _stages(
    inputs: JobInputs,
    components: Components,
    output: Path,
    check: Check,
    checkpoint: Checkpoint,
    recipe: str,
) -> Generator[Event, None, None]:
    request = inputs.request
    components.plan_memory(request.preserved_memory_gb)
    plan = plan_video(request.variant, request.sections)
    if recipe and not can_carry(recipe):
        yield Note(Message("The settings could not be written into the picture and the video."))
        recipe = ""
    picture, png = _pictured(inputs, recipe)
    video = GrowingVideo(output, plan.grows_at_front, request.crf, tags=Tags(recipe, png) if recipe else Tags())
    if len(checkpoint) == request.sections and (final := video.finished(plan.total_frames)):
        yield Finished(final, plan.total_frames)
        return
    yield from _kept(request, output, png, picture.shape[0] * picture.shape[1], check, checkpoint)
    checkpoint.expect(picture.shape[0] // VAE_SCALE, picture.shape[1] // VAE_SCALE)
    for text in (*inputs.start.notes, *_notes_on(request)):
        yield Note(text)
    conditions, start_latent = yield from _encoded(request, picture, components, check, checkpoint, output.parent)
    yield StageStarted("load", Message("Loading the {model} transformer", model=variant_named(request.variant).title))
    components.load(VAE)  # decoding needs it: what is wrong with its files is told before any sampling
    transformer = components.transformer(request.variant)
    height, width = picture.shape[:2]
    settings = sampling_settings(request)
    held = STEP_CACHES[settings.step_cache].held_streams
    execution, told = components.plan_sampling(
        transformer, Work(height, width, cfg=settings.cfg_scale != 1.0, cached_streams=held)
    )
    if told:
        yield Note(told)
    for text in components.notes_on(transformer):
        yield Note(text)

    @contextmanager
    def use(module: nn.Module) -> Iterator[None]:
        with components.residency.use(module, swap=module is transformer), interruptible(module, check):
            yield

    done = yield from _reopened(video, plan, checkpoint)
    shows_something = np.ptp(picture) > BLANK
    yield from sample_sections(
        plan,
        VideoInputs({START: start_latent}, {0: conditions}, request.seed),
        one_sampler(Sampler(transformer, components.device, transformer.dtype, execution, use)),
        settings,
        Postprocess(
            ComponentsDecoder(components, execution.kernels, check),
            wrap=lambda events, stopped: _saved(
                _shown(events) if shows_something else events, video, plan, checkpoint, _both(check, stopped)
            ),
            overlap=components.device.type == "cuda",  # a CPU has nothing left to do it with
            serialize_decode=not components.policy.resident,
        ),
        # The newest section in the file is decoded again, for its edge.
        EarlierRun(checkpoint, decode_from=done - 1 if 0 < done < request.sections else done),
    )
    path = video.finish()
    for kept, ending in (("photo", "png"), ("recipe", "json")):
        if kept not in request.keep:
            output.with_name(f"{output.name}.{ending}").unlink(missing_ok=True)
    yield Finished(path, video.frames)


def sampling_settings(request: GenerationRequest) -> SamplingSettings:
    """Return how a request's sections are sampled."""
    return SamplingSettings(
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        cfg_scale=request.cfg_scale,
        cfg_rescale=request.cfg_rescale,
        step_cache="teacache" if request.teacache else "none",
    )


def _reopened(video: GrowingVideo, plan: VideoPlan, checkpoint: Checkpoint) -> Generator[Event, None, int]:
    """Let `video` go on from the newest file that is whole; return the number of its sections."""
    for sections in range(len(checkpoint), 0, -1):
        if video.reopen(sections, frames := plan.frames_after(sections)):
            assert video.partial is not None
            yield VideoGrown(video.partial, frames, sections)
            return sections
    video.remove_partials()
    return 0


def _saved(
    events: Events, video: GrowingVideo, plan: VideoPlan, checkpoint: Checkpoint, check: Check
) -> Generator[Event, None, None]:
    """Keep each section that `events` finish, first as sampled, then in `video`."""
    for event in events:
        if isinstance(event, SectionSampled) and event.index == len(checkpoint):
            keep = partial(checkpoint.append, event)
            yield from retry_when_disk_full(keep, video.folder, 2 * event.latents.nbytes, check)
        yield event
        if isinstance(event, SectionDone) and event.pixels is not None:
            overlap = plan.sections[event.index].overlap_pixels
            if event.index < video.sections:
                video.recall(event.pixels, overlap)
                continue
            yield StageStarted("save", Message("Writing the video"))
            write = partial(video.add, event.pixels, overlap, check=check)
            path = yield from retry_when_disk_full(write, video.folder, video.bytes_for(event.pixels), check)
            yield VideoGrown(path, video.frames, event.index + 1)


def _shown(events: Events) -> Events:
    """Pass `events` on; raises NumericsError for a section that shows nothing."""
    for event in events:
        if isinstance(event, SectionDone) and event.pixels is not None:
            require_picture(event.pixels, event.index + 1)
        yield event


def _both(first: Check, second: Check) -> Check:
    def check() -> None:
        first()
        second()

    return check


def _encoded(
    request: GenerationRequest,
    picture: NDArray[np.uint8],
    components: Components,
    check: Check,
    checkpoint: Checkpoint,
    folder: Path,
) -> Generator[Event, None, tuple[Conditions, Tensor]]:
    """Return the conditions and the start latent, (1, 16, 1, H, W), as the checkpoint has them or new.

    `folder` is that of the results, whose disk the checkpoint is on, too.
    """
    if found := checkpoint.conditions():
        return found
    conditions = yield from make_conditions(request, picture, components, check)
    yield StageStarted("image", Message("Encoding the photo"))
    with components.vae() as vae, interruptible(vae, check):
        noise = torch.Generator("cpu").manual_seed(request.seed)
        start_latent = vae_encode(_pixels_of(picture), vae, noise)
    begin = partial(checkpoint.begin, components.environment.of_video(request.variant), conditions, start_latent)
    need = 2 * sum(tensor.nbytes for tensor in vars(conditions).values() if tensor is not None)
    yield from retry_when_disk_full(begin, folder, need, check)
    return conditions, start_latent


def _pictured(inputs: JobInputs, recipe: str) -> tuple[NDArray[np.uint8], bytes]:
    """Bring the start picture to its bucket; returns the picture, (H, W, 3), and the PNG of it that files keep."""
    resolution, image = inputs.request.resolution, inputs.start.image
    assert resolution is not None, "generate fills it in"
    height, width = find_nearest_bucket(image.height, image.width, resolution)
    picture = resize_and_center_crop(np.asarray(image), width, height)
    png = io.BytesIO()
    Image.fromarray(picture).save(png, format="PNG", pnginfo=png_comment(recipe) if recipe else None)
    return picture, png.getvalue()


def _kept(
    request: GenerationRequest, output: Path, png: bytes, pixels: int, check: Check, checkpoint: Checkpoint
) -> Generator[Event, None, None]:
    """Keep picture and request. Where there is too little room a new video is refused; one that goes on waits."""
    need = _bytes_needed(request, len(checkpoint), pixels)
    keep = partial(_keep, request, output, png, need)
    if len(checkpoint):
        yield from retry_when_disk_full(keep, output.parent, need, check)
    else:
        keep()


def _keep(request: GenerationRequest, output: Path, png: bytes, need: int) -> None:
    """Write the picture and the request beside the video that is to come, if there is room for all of it."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        require_free_space(output.parent, need)
        with atomic_write(output.with_name(f"{output.name}.png")) as part:
            part.write_bytes(png)
        with atomic_write(output.with_name(f"{output.name}.json")) as part:
            part.write_text(request.to_json(), encoding="utf-8")
    except OSError as error:
        raise output_error(output.parent, error) from error


def _bytes_needed(request: GenerationRequest, sections_kept: int, pixels: int) -> int:
    sections = max(request.sections - sections_kept, 0)
    return int(pixels * (BYTES_PER_PIXEL * request.total_frames + CHECKPOINT_BYTES_PER_PIXEL * sections))


def _notes_on(request: GenerationRequest) -> Iterator[str]:
    if request.crf != request.mp4_crf:
        yield Message(
            "MP4 compression {given} was set to {used}: browsers play 1 to 51.", given=request.mp4_crf, used=request.crf
        )
    if request.negative_prompt and request.cfg_scale == 1.0:
        yield Message("The negative prompt has no effect while CFG is 1.")


def _pixels_of(picture: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, 1, H, W) float32 in -1..1."""
    return (torch.from_numpy(picture).float() / 127.5 - 1).permute(2, 0, 1)[None, :, None]
