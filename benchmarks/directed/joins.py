"""Given videos: is the step from them to what is made for them, and back, like any other?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from benchmarks.directed.scene import SECTION, Measured, Scene
from benchmarks.metrics import Frames, step_ratio
from benchmarks.quality import PROMPTS
from benchmarks.studio import SECTION_SECONDS, Studio
from diffusers_helper.core.plan import FPS, START
from diffusers_helper.core.prompts import written
from diffusers_helper.core.scores import AFTER, BEFORE
from diffusers_helper.media.clip import Clip, open_clip
from diffusers_helper.media.inputs import JobInputs
from training.motions import camera_motion

THERE, BACK = "pan left", "pan right"


@dataclass(frozen=True)
class Join:
    """What is made for given videos.

    Attributes:
        variant: of the new part.
        motion: that its prompt asks for.
        before, after: whether the first video comes before it, and which video comes after it.
    """

    variant: str
    motion: str
    before: bool = True
    after: str = ""


JOINS = {
    "connect": Join("original", THERE, after="second"),
    "extend, original": Join("original", THERE),
    "extend, F1": Join("f1", THERE),
    "before": Join("original", THERE, before=False, after="first"),
    "loop": Join("original", BACK, after="first"),
}
"""One section each: F1, too, would leave what leads to a given video to the original's weights."""


def given_videos(studio: Studio, scenes: Sequence[Scene]) -> Measured:
    """Joins to clips that the model made, and to clips whose frames no autoencoder has seen."""
    for scene in scenes:
        yield from joins_of(studio, scene, _own(studio, scene), "own clips")
        yield from joins_of(studio, scene, _drawn(scene), "drawn clips")


def joins_of(studio: Studio, scene: Scene, frames: Frames, source: str) -> Measured:
    """Make JOINS for the first and the third section of a clip of three."""
    pixels = {"first": frames[: SECTION + 1], "second": frames[2 * SECTION + 1 :]}
    with tempfile.TemporaryDirectory() as folder:
        clips = {name: lossless(part, Path(folder) / f"{name}.mkv") for name, part in pixels.items()}
        for case, join in JOINS.items():
            changes = {"prompt": PROMPTS[join.motion][0], "variant": join.variant, "seconds": SECTION_SECONDS}
            before, after = {BEFORE: clips["first"]} if join.before else {}, clips.get(join.after)
            videos = before | ({AFTER: after} if after else {})
            made = studio.directed(JobInputs.of_videos(studio.inputs({}, **changes).request, videos))
            steps = {
                "joint_into": _step(pixels["first"], made) if before else None,
                "joint_out_of": _step(made, pixels[join.after]) if after else None,
            }
            parts = [*([pixels["first"]] if before else []), made, *([pixels[join.after]] if after else [])]
            numbers = {"case": f"{case}, {source}", "picture": scene.name, "motion": join.motion}
            yield numbers | steps, list(np.concatenate(parts)[:: SECTION // 2][:7])


def lossless(frames: Frames, path: Path) -> Clip:
    """Write frames (T, H, W, 3) to a video file that holds them as they are."""
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    return open_clip(path)


def _step(one: Frames, other: Frames) -> float:
    return step_ratio(np.concatenate([one, other]), len(one) - 1, SECTION // 2)


def _own(studio: Studio, scene: Scene) -> Frames:
    """Three sections of F1's: there, to rest, and back."""
    prompt = written([(0.0, PROMPTS[THERE][0]), (2 * SECTION_SECONDS, PROMPTS[BACK][0])])
    start = {START: scene.at(camera_motion(THERE), 0)}
    return studio.directed(studio.inputs(start, prompt=prompt, variant="f1", seconds=3 * SECTION_SECONDS))


def _drawn(scene: Scene) -> Frames:
    motion = replace(camera_motion(THERE), then=camera_motion(BACK), change=2 * SECTION)
    return scene.clip(motion, range(3 * SECTION + 1))
