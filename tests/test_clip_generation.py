"""Given videos go on, are led to, connected and made to loop, on the tiny models."""

import os
from contextlib import nullcontext

import av
import numpy as np
import pytest

from diffusers_helper.core.errors import CancelledError
from diffusers_helper.core.events import Finished, Note, StageStarted, StepDone, VideoGrown
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.generate import generate
from diffusers_helper.loading.components import Components
from diffusers_helper.media.clip import open_clip
from diffusers_helper.media.edits import connected, extended, looped
from diffusers_helper.model_files import LocalFolder
from tests.odd_videos import video, waves
from tests.quick import quick_decoding
from tests.tiny import TINY_FOLDER

SMALL = {"prompt": "the camera pans left", "seconds": 1.2, "steps": 1, "seed": 5, "resolution": 128}
SIZE = 160, 96


@pytest.fixture(scope="module")
def components():
    return Components(LocalFolder(TINY_FOLDER), "cpu")


def given(path, frames, seed=0, **about):
    pictures = waves(frames, SIZE, seed)
    return open_clip(video(path, frames, size=SIZE, pictures=pictures, options={"crf": "10"}, **about))


def run(components, output, inputs_of, **changes):
    inputs = inputs_of(GenerationRequest(**(SMALL | changes)))
    return list(generate(inputs, components=components, output=output))


def frames_of(path):
    with av.open(path) as file:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(video=0)]


def near(found, expected):
    """The frames are those, but for what a codec changes."""
    return len(found) == len(expected) and max(np.abs(a - b).mean() for a, b in zip(found, expected, strict=True)) < 3


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("variant", "seconds", "new"),
    [
        ("f1", 1.2, 36),
        pytest.param("original", 1.2, 36, marks=SLOW),
        pytest.param("f1", 2.4, 72, marks=SLOW),
        pytest.param("original", 2.4, 72, marks=SLOW),
    ],
)
def test_a_video_goes_on(components, tmp_path, variant, seconds, new):
    clip = given(tmp_path / "given.mp4", 30, audio=1)
    with nullcontext() if seconds > 2 else quick_decoding():
        events = run(components, tmp_path / "out", lambda r: extended(r, clip), variant=variant, seconds=seconds)
    assert events[-1] == Finished(tmp_path / "out.mp4", 30 + new, new)
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages[:5] == ["image", "text", "image", "image", "load"]
    assert any(isinstance(event, StepDone) for event in events)
    assert any(isinstance(event, VideoGrown) for event in events)
    assert not [event for event in events if isinstance(event, Note)]
    frames = frames_of(tmp_path / "out.mp4")
    assert len(frames) == 30 + new
    assert near(frames[:30], frames_of(clip.path)), "its own packets"
    assert {frame.shape for frame in frames} == {(SIZE[1], SIZE[0], 3)}
    assert sorted(os.listdir(tmp_path)) == ["given.mp4", "out.json", "out.mp4", "out.png"]


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_a_video_is_led_to(components, tmp_path):
    clip = given(tmp_path / "given.mp4", 30)
    events = run(components, tmp_path / "out", lambda r: extended(r, clip, before=True))
    assert events[-1] == Finished(tmp_path / "out.mp4", 33 + 30, 33)
    frames = frames_of(tmp_path / "out.mp4")
    assert near(frames[33:], frames_of(clip.path))


@SLOW
@pytest.mark.parametrize("variant", ["f1", "original"])
def test_two_videos_are_connected(components, tmp_path, variant):
    first, second = given(tmp_path / "first.mp4", 20), given(tmp_path / "second.mp4", 25, seed=2)
    wanted = {"variant": variant, "seconds": 2.4, "landing": 1}
    events = run(components, tmp_path / "out", lambda r: connected(r, first, second), **wanted)
    assert (events[-1].frames, events[-1].made) == (20 + 72 + 25, 72)
    loads = [event.text for event in events if isinstance(event, StageStarted) and event.stage == "load"]
    assert len(loads) == (2 if variant == "f1" else 1), "F1 leaves the landing to the original"
    frames = frames_of(tmp_path / "out.mp4")
    assert near(frames[:20], frames_of(first.path))
    assert near(frames[-25:], frames_of(second.path))
    assert len(frames) == 20 + 72 + 25


@SLOW
@pytest.mark.usefixtures("_quick")
def test_a_loop(components, tmp_path):
    clip = given(tmp_path / "given.webm", 20, codec="libvpx-vp9")
    events = run(components, tmp_path / "out", lambda r: looped(r, clip))
    assert any("encoded again" in event.text for event in events if isinstance(event, Note))
    assert len(frames_of(tmp_path / "out.mp4")) == 20 + 36


@pytest.mark.usefixtures("_quick")
def test_a_video_of_one_frame(components, tmp_path):
    clip = given(tmp_path / "given.mp4", 1)
    run(components, tmp_path / "out", lambda r: extended(r, clip), variant="f1")
    assert len(frames_of(tmp_path / "out.mp4")) == 1 + 36


@SLOW
@pytest.mark.usefixtures("_quick")
def test_the_same_seed_gives_the_same_video(components, tmp_path):
    clip = given(tmp_path / "given.mp4", 9)
    for name in ("a", "b"):
        run(components, tmp_path / name, lambda r: extended(r, clip), variant="f1")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("stop_at", [StepDone, VideoGrown])
def test_a_stop_leaves_no_finished_file(components, tmp_path, stop_at):
    clip = given(tmp_path / "given.mp4", 9)
    inputs = extended(GenerationRequest(**SMALL), clip)
    events = generate(inputs, components=components, output=tmp_path / "out")
    next(event for event in events if isinstance(event, stop_at))
    events.close()
    assert not list(tmp_path.glob("out.mp4*"))


def test_it_can_be_cancelled_while_the_video_is_read(components, tmp_path):
    clip = given(tmp_path / "given.mp4", 9)

    def check():
        raise CancelledError

    inputs = extended(GenerationRequest(**SMALL), clip)
    with pytest.raises(CancelledError):
        list(generate(inputs, components=components, output=tmp_path / "out", check=check))
