"""From a request and its pictures, or given videos, to a video file: the stages around the engine, each an event.

It knows which model is needed when, and neither threads, queues nor pages. With a checkpoint a video that was cut off
goes on where it was, to the same bits.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffusers_helper.core.directing import Direction, direct_videos
from diffusers_helper.core.events import Event, Note, SectionDone, SectionSampled, StageStarted, VideoGrown
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import END, VideoPlan
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.encoders.hunyuan import vae_encode
from diffusers_helper.framepack.conditions import Conditions
from diffusers_helper.framepack.engine import VAE_SCALE, EarlierRun, VideoInputs, sample_sections
from diffusers_helper.framepack.postprocess import Events, Postprocess
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.clips import encode_clips, finished_with, joined, read_videos
from diffusers_helper.generation.conditions import Check, make_conditions
from diffusers_helper.generation.decoding import ComponentsDecoder
from diffusers_helper.generation.disk_wait import retry_when_disk_full
from diffusers_helper.generation.models import ModelLoader
from diffusers_helper.generation.notes import note_on_trails, notes_on
from diffusers_helper.generation.pictures import Pictures, pixels_of, prepared
from diffusers_helper.generation.results import keep_beside, remove_unwanted
from diffusers_helper.generation.sampling import computed_in, environment_of, require_step_cache, work_of
from diffusers_helper.generation.team import ALONE, Team, VideoJob, unstoppable
from diffusers_helper.loading.components import Components
from diffusers_helper.media.frames import require_picture
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.recipe import can_carry, recipe_of
from diffusers_helper.media.tags import Tags
from diffusers_helper.memory import out_of_memory_as_error


def generate(  # noqa: PLR0913 - a promised signature
    inputs: JobInputs,
    *,
    components: Components,
    output: Path,
    check: Check = lambda: None,
    checkpoint: Checkpoint | None = None,
    metadata: bool = True,
    team: Team | None = None,
) -> Generator[Event, None, None]:
    """Make one video.

    Args:
        inputs: the settings, where a seed of -1 is drawn here, and the pictures or given videos.
        components: the models.
        output: the files' stem, for example `outputs/20261122_101500_123`.
        check: called between layers of long calls; it may raise (CancelledError, say) to stop there.
        checkpoint: what an earlier run of this very video kept; every sampled section is added to it.
        metadata: the picture and the video carry the request; see `media.recipe`.
        team: processes that sample and decode it with this one.

    Yields events up to Finished; where the disk is full it waits. Raises a
    FramePackError for all that a user can mend; closing the iterator stops the work and keeps the sections that were
    done.
    """
    kept = Checkpoint(None) if checkpoint is None else checkpoint
    request = components.loras.identified(inputs.request.with_seed())
    request = request.model_copy(update={"resolution": request.resolution or components.source.defaults.resolution})
    names = {use: clip.name for use, clip in inputs.videos.items()}
    computed = computed_in(components, request)
    recipe = recipe_of(request, inputs.pictures, names, computed) if metadata else ""
    inputs = replace(inputs, request=request)
    with out_of_memory_as_error():
        yield from _stages(_Run(inputs, components, output, check, kept, team), recipe)


@dataclass(frozen=True, eq=False)
class _Run:
    """What `generate` was given."""

    inputs: JobInputs
    components: Components
    output: Path
    check: Check
    checkpoint: Checkpoint
    team: Team | None


def _stages(run: _Run, recipe: str) -> Generator[Event, None, None]:
    request, components, checkpoint = run.inputs.request, run.components, run.checkpoint
    components.plan_memory(request.preserved_memory_gb)
    if recipe and not can_carry(recipe):
        yield Note(Message("The settings could not be written into the picture and the video."))
        recipe = ""
    pictures, direction = yield from _material(run, recipe)
    carried = () if run.inputs.videos else (pictures.png, pictures.more)
    tags = Tags(recipe, *carried) if recipe else Tags()
    plan = direction.plan
    video = GrowingVideo(run.output, plan.grows_at_front, request.crf, tags=tags)
    whole = None if run.inputs.videos else plan.total_frames
    if len(checkpoint) == len(plan.sections) and (final := video.finished(whole)):
        yield finished_with(run.inputs, final, plan.total_frames, run.check)
        return
    height, width = pictures.size
    yield from keep_beside(run.output, run.inputs, pictures, len(checkpoint), run.check)
    checkpoint.expect(height // VAE_SCALE, width // VAE_SCALE)
    settings = sampling_settings(request, components.stagger)
    require_step_cache(settings, components, plan.variants)
    work = work_of(settings, height, width)
    in_step = unstoppable if run.team else run.check
    models = ModelLoader(components, settings, work, in_step, request.loras, direction.cues)
    notes = notes_on(run.inputs, height * width, components.source.defaults.resolution or 0)
    for text in (*models.notes(plan.variants), *notes):
        yield Note(text)
    conditions, given = yield from _encoded(run, direction, pictures)
    done = yield from _reopened(video, plan, checkpoint)
    # The newest section in the file is decoded again, for its edge.
    decode_from = done - 1 if 0 < done < len(plan.sections) else done
    made_from, trails = VideoInputs(given, conditions, request.seed), checkpoint.trails()
    for text in note_on_trails(plan, settings, len(checkpoint), trails):
        yield Note(text)
    member = ALONE
    if run.team:
        sampled, preserved = list(checkpoint), request.preserved_memory_gb
        job = VideoJob(
            plan, made_from, settings, sampled, decode_from, trails, work, request.loras, direction.cues, preserved
        )
        member = run.team.lead(job)
    yield from sample_sections(
        plan,
        made_from,
        member.samplers(models.sampler),
        settings,
        Postprocess(
            ComponentsDecoder(components, lambda: models.kernels, in_step, member.shares),
            wrap=lambda events, stopped: _saved(
                _shown(events) if pictures.show_something else events,
                video,
                plan,
                checkpoint,
                _both(run.check, stopped),
            ),
            overlap=components.device.type == "cuda",  # a CPU has nothing left to do it with
            serialize_decode=not components.policy.resident,
        ),
        EarlierRun(checkpoint, decode_from, trails),
    )
    path = (yield from joined(run.inputs, video, recipe, run.check)) if run.inputs.videos else video.finish()
    remove_unwanted(run.output, request)
    yield finished_with(run.inputs, path, video.frames, run.check)


def _material(run: _Run, recipe: str) -> Generator[Event, None, tuple[Pictures, Direction]]:
    """Bring what the video is made from to its size, and plan it."""
    if not run.inputs.videos:
        direction = run.inputs.direction
        return prepared(run.inputs, recipe), direction
    yield StageStarted("image", Message("Reading the video"))
    pictures = read_videos(run.inputs, recipe, run.check)
    return pictures, direct_videos(run.inputs.request, pictures.latents)


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
            need = event.latents.nbytes + (0 if event.trail is None else event.trail.nbytes)
            yield from retry_when_disk_full(keep, video.folder, 2 * need, check)
        yield event
        if isinstance(event, SectionDone) and event.pixels is not None:
            overlap = plan.sections[event.index].overlap_pixels
            if event.index < video.sections:
                video.recall(event.pixels, overlap)
                continue
            yield StageStarted("save", Message("Writing the video"))
            write = partial(video.add, event.pixels, overlap, check=check, count=event.index + 1)
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
    run: _Run, direction: Direction, pictures: Pictures
) -> Generator[Event, None, tuple[Mapping[int, Conditions], Mapping[str, Tensor]]]:
    """Return conditions by number, and the given latents (1, 16, n, H, W) by name: as they were kept, or new."""
    request, components = run.inputs.request, run.components
    found = run.checkpoint.conditions()
    if found and direction.cues.keys() <= found[0].keys() and pictures.latents.items() <= _counts(found[1]).items():
        return found
    guided = request.cfg_scale != 1.0
    conditions = yield from make_conditions(direction.cues, pictures.named, components, run.check, guided=guided)
    yield StageStarted("image", Message("Encoding the video") if pictures.clips else Message("Encoding the photo"))
    with components.vae() as vae, interruptible(vae, run.check):
        given = encode_clips(pictures.clips, vae, request.seed) or {
            name: vae_encode(pixels_of(picture), vae, torch.Generator("cpu").manual_seed(request.seed))
            for name, picture in pictures.named.items()
        }
    if END in given:
        given[END] = given[END] * request.end_strength  # the rest is zeros, as where there is no end picture
    environment = environment_of(components, request, direction.plan.variants)
    begin = partial(run.checkpoint.begin, environment, conditions, given)
    need = 2 * sum(t.nbytes for each in conditions.values() for t in vars(each).values() if t is not None)
    yield from retry_when_disk_full(begin, run.output.parent, need, run.check)
    return conditions, given


def _counts(given: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: latents.shape[2] for name, latents in given.items()}
