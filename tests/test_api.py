"""The class for other people's programs, on a program that computes nothing, and once on the tiny model."""

import gc
import re
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diffusers_helper import FramePack
from diffusers_helper.core.errors import ClipError, LoraError, ModelFilesError, OutputError, PhotoError, SettingsError
from diffusers_helper.core.events import Finished, Note, StageStarted, StepDone
from diffusers_helper.thread_utils import async_run
from tests.odd_videos import video

ROOT = Path(__file__).parents[1]
CPU = {"device": "cpu", "no_embedding_cache": True}
pytestmark = pytest.mark.usefixtures("kept_environment")


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Requests and photos that were asked for; the videos are files of a few bytes."""
    calls = []

    def generate(inputs, *, output, **_rest):
        call = SimpleNamespace(request=inputs.request, photo=inputs.lead, videos=inputs.videos, closed=False)
        calls.append(call)
        try:
            yield StageStarted("text", "Reading the prompt")
            yield Note("The prompt was cut.")
            for step in range(1, 4):
                yield StepDone(0, 1, step, 3, None)
            output.parent.mkdir(exist_ok=True)
            video = inputs.lead.path.read_bytes() if inputs.videos else b"video"
            output.with_suffix(".mp4").write_bytes(video)
            made = inputs.request.total_frames
            yield Finished(output.with_suffix(".mp4"), *((60, made) if inputs.videos else (made,)))
        finally:
            call.closed = True

    monkeypatch.setattr("diffusers_helper.generation.generate.generate", generate)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (128, 96), "red").save("photo.jpg")
    return calls


def test_a_video_in_one_line(calls):
    saved = FramePack.load("tiny", variant="f1", **CPU)("photo.jpg", "pan left", seconds=2.4).save("out.mp4")
    assert (saved, saved.read_bytes()) == (Path("out.mp4"), b"video")
    request = calls[0].request
    assert (request.variant, request.prompt, request.seconds, request.resolution) == ("f1", "pan left", 2.4, 128)


def test_lora_files_of_all_videos_and_of_one(calls):
    for name in "ab":
        save_file(
            {"proj_out.lora_A.weight": torch.ones(1, 1), "proj_out.lora_B.weight": torch.ones(1, 1)},
            f"{name}.safetensors",
        )
    framepack = FramePack.load("tiny", loras={"a.safetensors": 0.8}, **CPU)
    framepack("photo.jpg")
    framepack("photo.jpg", loras={"b.safetensors": [(0, 0.2), (2.4, 1)]})
    framepack("photo.jpg", loras=())
    found = [[(lora.name, lora.weight) for lora in call.request.loras] for call in calls]
    assert found == [[("a.safetensors", 0.8)], [("b.safetensors", ((0.0, 0.2), (2.4, 1.0)))], []]
    assert len(calls[0].request.loras[0].sha256) == 64
    with pytest.raises(SettingsError, match="no such file"):
        framepack("photo.jpg", loras={"c.safetensors": 1})
    Path("d.safetensors").write_bytes(b"")
    with pytest.raises(LoraError, match="cut short"):
        framepack.stream("photo.jpg", loras={"d.safetensors": 1})
    with pytest.raises(SettingsError, match="from -10 to 10"):
        FramePack.load("tiny", loras={"a.safetensors": 80}, **CPU)


def test_what_is_told_of_a_video(calls):
    video = FramePack.load("tiny", outputs="results", **CPU)("photo.jpg", seconds=1, seed=-1)
    assert (video.frames, round(video.seconds, 2), video.notes) == (37, 1.23, ("The prompt was cut.",))
    assert video.request == calls[0].request
    assert video.request.seed >= 0
    assert video.path.parent == Path("results").resolve()


def test_a_temporary_folder_is_there_as_long_as_its_videos(calls):
    video = FramePack.load("tiny", **CPU)("photo.jpg")
    gc.collect()
    assert video.path.exists()
    path = video.path
    del video
    gc.collect()
    assert not path.parent.exists()


def test_events_come_as_they_happen_and_leaving_the_loop_stops_the_work(calls):
    framepack = FramePack.load("tiny", **CPU)
    assert [type(event) for event in framepack.stream("photo.jpg")][-2:] == [StepDone, Finished]
    for event in framepack.stream("photo.jpg"):
        if isinstance(event, StepDone):
            break
    gc.collect()
    assert [call.closed for call in calls] == [True, True]
    assert len(list(framepack.outputs.glob("*.mp4"))) == 1


@pytest.mark.parametrize(
    ("photo", "settings", "error", "told"),
    [
        ("none.jpg", {}, PhotoError, "no file"),
        ("The dancer turns slowly. " * 20, {}, SettingsError, "Were two arguments swapped"),
        ("photo.jpg\0", {}, SettingsError, "no zero byte"),
        (Image.new("RGB", (9, 9)), {}, PhotoError, "9 x 9"),
        ("photo.jpg", {"steps": 0}, SettingsError, "steps: "),
        ("photo.jpg", {"latent_window_size": 33}, SettingsError, "latent_window_size: "),
    ],
)
def test_what_is_wrong_is_told_before_any_work(calls, photo, settings, error, told):
    with pytest.raises(error, match=told):
        FramePack.load("tiny", **CPU).stream(photo, **settings)
    assert calls == []


def test_a_picture_in_memory(calls):
    picture = Image.new("RGBA", (96, 128), (255, 0, 0, 0))
    picture.getexif()[274] = 6  # lies on its side
    FramePack.load("tiny", **CPU)(picture)
    photo = calls[0].photo
    assert (photo.image.size, photo.image.mode, photo.image.getpixel((5, 5))) == ((128, 96), "RGB", (255, 255, 255))
    assert photo.notes == ("Transparent parts were filled with white.",)


@pytest.mark.parametrize(
    ("models", "options", "error", "told"),
    [
        ("/no/folder", {}, SettingsError, "/no/folder"),
        ("framepack", {"offline": True}, ModelFilesError, "hf download"),
        ("tiny", {"variant": "f2"}, SettingsError, "'f2'"),
        ("tiny", {"colour": "red"}, TypeError, "'colour'.*attention"),
    ],
)
def test_a_model_that_cannot_be_had(models, options, error, told):
    with pytest.raises(error, match=told):
        FramePack.load(models, **CPU | options)


def test_results_have_readable_names(calls, tmp_path):
    framepack = FramePack.load("tiny", outputs=tmp_path / "results", name_template="{photo}-{seed}", **CPU)
    names = [framepack("photo.jpg", "Pan left", seed=7).path.name for _ in range(2)]
    assert names == ["photo-7.mp4", "photo-7_2.mp4"]
    with pytest.raises(SettingsError, match="is no field"):
        FramePack.load("tiny", name_template="{job}", **CPU)


def test_a_target_that_cannot_be_written(calls):
    video = FramePack.load("tiny", **CPU)("photo.jpg")
    for name in ("x" * 256, "a\0.mp4"):
        with pytest.raises(OutputError, match="could not be written"):
            video.save(name)
    assert video.save("x" * 255).read_bytes() == b"video"
    with pytest.raises(OutputError, match="missing"):
        video.save("missing/out.mp4")


def test_what_is_made_of_given_videos(calls, tmp_path):
    path = video(tmp_path / "clip.mp4", 60)
    framepack = FramePack.load("tiny", variant="f1", **CPU)
    made = framepack.extend(str(path), 2.4, [(0, "a"), (1.2, "b")], anchor="first", keep=())
    assert (made.frames, made.request.seconds, made.request.anchor, made.notes) == (
        60,
        2.4,
        "first",
        ("The prompt was cut.",),
    )
    framepack.extend(made, 1.2, before=True)
    framepack.connect(path, made, 1.2)
    framepack.loop(path, 1.2)
    framepack.redo(path, 0.2, 1.4, "c", seed=3)
    framepack.insert(path, 1, 1.2)
    uses = [list(call.videos) for call in calls]
    assert uses == [["before"], ["after"], ["before", "after"], ["around"], ["around"], ["around"]]
    assert [call.request.replaced for call in calls[3:]] == [None, (0.2, 1.4), (1.0, 1.0)]
    assert (calls[4].request.seconds, calls[4].request.seed, calls[4].request.prompt) == (1.2, 3, "c")
    for wrong, told in (("none.mp4", "no file"), ("photo.jpg", "no video")):
        with pytest.raises(ClipError, match=told):
            framepack.loop(wrong, 1.2)
    with pytest.raises(SettingsError, match="not in the video"):
        framepack.redo(path, 1, 9)
    assert len(calls) == 6


def test_the_documentation_runs(calls, monkeypatch):
    for name in ("clip.mp4", "first.mp4", "second.mp4"):
        video(name, 90)
    before = FramePack.load.__func__
    monkeypatch.setattr(
        FramePack, "load", classmethod(lambda cls, *args, **options: before(cls, *args, **options, **CPU))
    )
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert Path("out.mp4").exists()
    assert len(calls) == 9
    assert names["event"] == "done"

    def end_at_once():
        stream = type(names["stream"])()
        stream.input_queue.push("end")
        async_run(names["work"], stream).result(60)
        events = []
        while (event := stream.output_queue.pop()) is not None:
            events.append(event)
        return events

    assert len(end_at_once()) == 2
    assert calls[-1].closed


def test_the_readme_shows_what_is_tested_here():
    assert (
        'FramePack.load("tiny", variant="f1")("photo.jpg", "pan left", seconds=2.4).save("out.mp4")'
        in (ROOT / "README.md").read_text()
    )


@pytest.mark.slow
def test_on_the_tiny_model(tmp_path):
    photo = Image.radial_gradient("L").resize((128, 128))
    framepack = FramePack.load("tiny", variant="f1", **CPU)
    video = framepack(photo, "pan left", seconds=1, steps=1, resolution=128)
    framepack.release()
    with av.open(video.save(tmp_path / "out.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == video.frames == 37
