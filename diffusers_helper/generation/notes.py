"""What the user should know about a video before it is made."""

from __future__ import annotations

from collections.abc import Iterator

from diffusers_helper.core.buckets import is_far
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import END
from diffusers_helper.core.request import GenerationRequest
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
    if is_far(pixels, trained_at):
        yield Message(
            "The models were trained at about {side} x {side} pixels; this size may look worse.", side=trained_at
        )
    yield from _late(request)
    if END not in inputs.pictures and request.end_strength != 1.0:
        yield Message("The strength of an end picture has no effect without one.")


def _late(request: GenerationRequest) -> Iterator[str]:
    late = [seconds for seconds, _ in request.timed_prompts if seconds >= request.total_seconds]
    if late:
        yield Message(
            "The video ends at {end:.1f} s, before the text that begins at {begin:g} s.",
            end=request.total_seconds,
            begin=late[0],
        )
