"""What is made of given videos, as jobs: kept with them, gone on with after a kill to the same bits."""

import json
import os
import shutil
from dataclasses import replace

import av
import pytest

from diffusers_helper.core.errors import ClipError, SettingsError
from diffusers_helper.core.events import Finished, SectionSampled, StageStarted
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.generate import generate
from diffusers_helper.jobs.kept_video import with_kept_videos
from diffusers_helper.jobs.record import JobRecord, UnusableJobError, VideoRecord
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.sweeping import sweep
from diffusers_helper.loading.components import Components
from diffusers_helper.media.clip import open_clip
from diffusers_helper.media.edits import connected, extended, inserted, looped, redone
from diffusers_helper.media.recipe import read_recipe
from diffusers_helper.model_files import LocalFolder
from tests.odd_videos import video, waves
from tests.tiny import TINY_FOLDER

SMALL = {"prompt": "the camera pans left", "seconds": 1.2, "steps": 1, "seed": 5, "resolution": 128}
SIZE = 96, 64
KINDS = {
    "extend": lambda r, a, b: extended(r, a),
    "before": lambda r, a, b: extended(r, a, before=True),
    "connect": connected,
    "loop": lambda r, a, b: looped(r, a),
    "redo": lambda r, a, b: redone(r, a, 0.2, 1.4),
    "insert": lambda r, a, b: inserted(r, a, 0.2),
}


@pytest.fixture(scope="module")
def components():
    return Components(LocalFolder(TINY_FOLDER), "cpu")


def given(path, frames, seed=0, **about):
    pictures = waves(frames, SIZE, seed)
    return open_clip(video(path, frames, size=SIZE, pictures=pictures, options={"crf": "10", "g": "5"}, **about))


def inputs_of(kind, folder, **changes):
    folder.mkdir()
    frames = 50 if kind == "redo" else 9
    first, second = given(folder / "first.mp4", frames), given(folder / "second.mp4", 9, seed=2)
    return KINDS[kind](GenerationRequest(**SMALL | changes), first, second)


def run(store, inputs, components, name="job"):
    """Make a video as the program does."""
    output = store.folder.parent / name
    with store.running(name, inputs, output=name) as folder:
        yield from generate(
            with_kept_videos(inputs, folder), components=components, output=output, checkpoint=Checkpoint(folder)
        )


def shown(path):
    with av.open(path) as file:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(video=0)]


def packets(path):
    with av.open(path) as file:
        return [bytes(packet) for packet in file.demux(video=0) if packet.size]


SLOW = pytest.mark.slow


@pytest.mark.usefixtures("_quick")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "changes", "frames"),
    [
        ("extend", {"variant": "f1", "anchor": "first"}, 9 + 36),
        ("redo", {}, 50),
        pytest.param("extend", {"variant": "f1", "seconds": 2.4}, 9 + 72, marks=SLOW),
        pytest.param("before", {}, 33 + 9, marks=SLOW),
        pytest.param("before", {"seconds": 2.4, "variant": "f1"}, 69 + 9, marks=SLOW),
        pytest.param("connect", {}, 9 + 36 + 9, marks=SLOW),
        pytest.param("loop", {}, 9 + 36, marks=SLOW),
        pytest.param("loop", {"seconds": 2.4, "variant": "f1"}, 9 + 72, marks=SLOW),
        pytest.param("insert", {}, 9 + 36, marks=SLOW),
    ],
)
def test_it_goes_on_after_a_kill_to_the_same_bits(components, tmp_path, kind, changes, frames):
    goes_on_after_a_kill(components, tmp_path, kind, changes, frames)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "changes", "frames"),
    [("extend", {"seconds": 2.4}, 9 + 72), ("connect", {"seconds": 2.4, "variant": "f1"}, 9 + 72 + 9)],
)
def test_it_does_as_it_is_decoded(components, tmp_path, kind, changes, frames):
    goes_on_after_a_kill(components, tmp_path, kind, changes, frames)


def goes_on_after_a_kill(components, tmp_path, kind, changes, frames):
    inputs, cuts = inputs_of(kind, tmp_path / "given", **changes), []
    whole, own = tmp_path / "whole", packets(inputs.lead.path)
    for event in run(JobStore(whole / "jobs"), inputs, components):
        if isinstance(event, SectionSampled) or (isinstance(event, StageStarted) and event.stage == "save"):
            cuts.append(shutil.copytree(whole, tmp_path / f"cut {len(cuts)}"))
    made = 33 + 36 * (inputs.request.sections - 1) if kind == "before" else 36 * inputs.request.sections
    assert event == Finished(whole / "job.mp4", frames, made)
    assert len(shown(whole / "job.mp4")) == frames
    assert sorted(os.listdir(whole)) == ["job.json", "job.mp4", "job.png", "jobs"]
    assert not JobStore(whole / "jobs").records()
    shutil.rmtree(tmp_path / "given")  # the job has its own
    for cut in (cuts[0], cuts[-1]):
        store = JobStore(cut / "jobs")
        assert [record.id for record in sweep(store)] == ["job"]
        events = list(run(store, store.inputs("job"), components))
        assert not [each for each in events if isinstance(each, StageStarted) and each.stage == "text"]
        assert (cut / "job.mp4").read_bytes() == (whole / "job.mp4").read_bytes()
        assert sorted(os.listdir(cut)) == ["job.json", "job.mp4", "job.png", "jobs"]
    if kind == "redo":
        kept = packets(whole / "job.mp4")
        assert (kept[:5], kept[-4:]) == (own[:5], own[-4:])
    recipe = read_recipe(whole / "job.mp4")
    assert recipe.settings["prompt"] == inputs.request.prompt
    assert any("first.mp4" in note for note in recipe.notes)
    assert "replaced" not in recipe.settings


# --- what is kept


@pytest.fixture
def clip(tmp_path):
    return given(tmp_path / "first.mp4", 9)


def kept(tmp_path, clip):
    store, inputs = JobStore(tmp_path / "jobs"), extended(GenerationRequest(**SMALL), clip)
    store.add(JobRecord("a", inputs.request), inputs.pictures, inputs.videos)
    store.locks.release("a")
    return store


def test_a_given_video_takes_no_room(tmp_path, clip):
    store = kept(tmp_path, clip)
    file = store.path("a") / "video_before"
    assert file.samefile(clip.path)
    inputs = store.inputs("a")
    assert (inputs.videos["before"].name, inputs.videos["before"].path, inputs.lead.name) == (
        clip.name,
        file,
        clip.name,
    )
    assert (store.record("a").photo_name, store.record("a").total_frames) == ("first.mp4", 36)
    assert (inputs.pictures, inputs.shape) == ({}, (64, 96))
    clip.path.unlink()
    assert len(shown(file)) == 9
    store.discard("a")
    assert not file.exists()


def test_it_is_copied_where_there_are_no_links(tmp_path, clip, monkeypatch):
    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    file = kept(tmp_path, clip).path("a") / "video_before"
    assert not file.samefile(clip.path)
    assert file.read_bytes() == clip.path.read_bytes()


@pytest.mark.parametrize("change", ["written over", "removed", "replaced by a link"])
def test_a_video_that_was_changed_meanwhile_is_not_gone_on_with(tmp_path, clip, change):
    store = kept(tmp_path, clip)
    file = store.path("a") / "video_before"
    if change == "written over":
        clip.path.write_bytes(given(tmp_path / "other.mp4", 9, seed=4).path.read_bytes())
    else:
        file.unlink()
    if change == "replaced by a link":
        file.symlink_to("/etc/hostname")
    with pytest.raises(UnusableJobError, match="video_before"):
        store.inputs("a")
    assert sweep(store) == []
    assert len(store.quarantine.listed()) == 1


def test_a_video_that_is_gone_before_the_job_is_kept(tmp_path, clip):
    clip.path.unlink()
    with pytest.raises(ClipError, match=r"first\.mp4"):
        kept(tmp_path, clip)
    assert not (tmp_path / "jobs" / "a").exists()


@pytest.mark.parametrize(
    "videos",
    [{"../x": {}}, {"before": {"name": "a", "size": 1}}, {"before": {"name": 1, "size": 1, "changed": 1}}, [], "a"],
)
def test_a_record_is_not_believed(tmp_path, clip, videos):
    record = kept(tmp_path, clip).record("a")
    changed = json.dumps(json.loads(record.to_json()) | {"videos": videos}).encode()
    with pytest.raises(ValueError, match=r"videos|pictures"):
        JobRecord.from_json(changed)


# --- what cannot be


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda r, c: redone(r, c, 0.1, 9), "not in the video"),
        (lambda r, c: redone(r, c, 0, 0.3), "too short"),
        (lambda r, c: inserted(r, c, 0), "not inside"),
        (lambda r, c: inserted(r, c, 0.3), "not inside"),
        (lambda r, c: inserted(r, c, float("nan")), "not inside"),
        (lambda r, c: inserted(r, c, float("inf")), "not inside"),
        (lambda r, c: redone(r, c, float("nan"), 1), "not in the video"),
        (lambda r, c: redone(r, c, 0, float("inf")), "not in the video"),
    ],
)
def test_what_cannot_be_is_told_at_once(clip, make, says):
    with pytest.raises(SettingsError, match=says):
        make(GenerationRequest(**SMALL), clip)


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_video_is_given_no_picture_is_made(tmp_path, kind):
    inputs = inputs_of(kind, tmp_path / "given", start="colour", frame=True)
    assert (inputs.request.start, inputs.request.frame) == ("photo", False)
    assert (inputs.start_name, inputs.shape) == ("first.mp4", (64, 96))
    assert all(len(section.positions) > 1 for section in inputs.direction.plan.sections)
    record = JobRecord("a", inputs.request, pictures={}, videos=dict.fromkeys(inputs.videos, VideoRecord("first.mp4")))
    assert JobRecord.from_json(record.to_json().encode()) == record
    with pytest.raises(ValueError, match="pictures"):
        JobRecord.from_json(replace(record, videos={}).to_json().encode())
