"""Given videos on their way to the models, and what was made for them on its way into one file with them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffusers_helper.core.buckets import find_nearest_bucket
from diffusers_helper.core.events import Event, Finished, Note, StageStarted
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import pixel_frames
from diffusers_helper.core.scores import AFTER, BEFORE, MOST, sides
from diffusers_helper.encoders.clips import vae_encode_clip
from diffusers_helper.generation.conditions import Check
from diffusers_helper.generation.disk_wait import retry_when_disk_full
from diffusers_helper.generation.pictures import Pictures, png_of
from diffusers_helper.generation.results import room_for
from diffusers_helper.media.clip import End, clip_frames, clip_length, open_clip
from diffusers_helper.media.edits import cuts, parts_of
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.joining import join_videos
from diffusers_helper.media.tags import Tags

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo

_ENDS: dict[str, End] = {BEFORE: "last", AFTER: "first"}


def read_videos(inputs: JobInputs, recipe: str, check: Check) -> Pictures:
    """Read the frames of given videos that sections are to follow, at the size of the first one's bucket.

    `recipe` as in `pictures.prepared`. Raises ClipError where a video cannot be read any more.
    """
    assert inputs.request.resolution is not None, "every source has one"
    size = find_nearest_bucket(*inputs.shape, inputs.request.resolution)
    at = cuts(inputs.request)
    frames = {
        name: clip_frames(clip, _ENDS[name], pixel_frames(MOST[name]), size, check, at[name])
        for name, clip in sides(inputs.videos).items()
    }
    seen, place = (BEFORE, -1) if BEFORE in frames else (AFTER, 0)
    picture = np.ascontiguousarray(frames[seen][:, place].permute(1, 2, 0).numpy())
    return Pictures({seen: picture}, png_of(picture, recipe), clips=frames)


def encode_clips(clips: Mapping[str, Tensor], vae: AutoencoderKLHunyuanVideo, seed: int) -> dict[str, Tensor]:
    """Encode the frames of each given video in one pass; returns (1, 16, n, H, W) by name."""
    noise = torch.Generator("cpu").manual_seed(seed)
    return {name: vae_encode_clip(frames, vae, noise) for name, frames in clips.items()}


def joined(inputs: JobInputs, video: GrowingVideo, recipe: str, check: Check) -> Generator[Event, None, Path]:
    """Write the given videos and what was made for them to the final file, and return it; on a full disk it waits.

    Raises ClipError where a given video cannot be read any more, and OutputError; what was made is then still there.
    """
    made = video.partial
    assert made is not None, "a plan has sections"
    yield StageStarted("save", Message("Joining the videos"))
    parts, crf = list(parts_of(inputs, made)), inputs.request.crf
    join = partial(join_videos, parts, video.final, crf, check=check, tags=Tags(recipe))
    notes = yield from retry_when_disk_full(join, video.folder, room_for(inputs) + made.stat().st_size, check)
    for text in notes:
        yield Note(text)
    video.remove_partials()
    return video.final


def finished_with(inputs: JobInputs, path: Path, made: int, check: Check) -> Finished:
    """Return the end of a video of which so many frames were made; given videos have theirs in it, too.

    Raises ClipError where the file was changed meanwhile.
    """
    return Finished(path, clip_length(open_clip(path, check), check), made) if inputs.videos else Finished(path, made)
