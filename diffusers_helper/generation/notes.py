"""What the user should know about a video before it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from diffusers_helper.core.buckets import is_far
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import END, VideoPlan
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.core.stagger import schedule
from diffusers_helper.media.inputs import JobInputs


def notes_on(inputs: JobInputs, pixels: int, trained_at: int) -> Iterator[str]:
    """Yield sentences about the pictures, the settings, and an area of `pixels` far from `trained_at` squared."""
    told = [note for photo in inputs.pictures.values() for note in photo.notes]
    told += [note for clip in inputs.videos.values() for note in clip.notes]
    yield from dict.fromkeys(told)  # what several share is told once
    request = inputs.request
    if request.crf != request.mp4_crf:
        yield Message(
            "MP4 compression {given} was set to {used}: browsers play 1 to 51.", given=request.mp4_crf, used=request.crf
        )
    if request.negative_prompt and request.cfg_scale == 1.0:
        yield Message("The negative prompt has no effect while CFG is 1.")
    if request.cfg_rescale and request.cfg_scale == 1.0:
        yield Message("CFG rescale has no effect while CFG is 1.")
    if request.teacache and request.step_cache not in (None, "teacache"):
        yield Message("TeaCache has no effect, as the step cache {name} is chosen.", name=request.step_cache)
    if is_far(pixels, trained_at):
        yield Message(
            "The models were trained at about {side} x {side} pixels; this size may look worse.", side=trained_at
        )
    yield from _late(request)
    if END not in inputs.pictures and request.end_strength != 1.0:
        yield Message("The strength of an end picture has no effect without one.")


def note_on_trails(
    plan: VideoPlan, settings: SamplingSettings, sampled: int, trails: Mapping[int, Tensor]
) -> Iterator[str]:
    """Yield a sentence where what staggered sections had read of the ones before them is lost; see `EarlierRun`."""
    order = schedule(plan, settings.steps, settings.stagger, sampled)
    read = frozenset[int]().union(*(plan.reads(section) for section in plan.sections[sampled:]))
    length = settings.steps - (settings.stagger or 0)
    lost = [number for number in order.half_done if number in read and len(trails.get(number, ())) != length]
    if lost:
        yield Message(
            "What others had read of section {numbers} before it was done is not in the job's folder, so they read it "
            "as it is now: the rest differs a little from a video that nothing interrupted.",
            numbers=", ".join(str(number + 1) for number in lost),
        )


def _late(request: GenerationRequest) -> Iterator[str]:
    late = [seconds for seconds, _ in request.timed_prompts if seconds >= request.total_seconds]
    if late:
        yield Message(
            "The video ends at {end:.1f} s, before the text that begins at {begin:g} s.",
            end=request.total_seconds,
            begin=late[0],
        )
