"""From a request to a file, on the tiny models: what the stages around the engine add to it."""

import io
import json
import shutil
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_helper.core.errors import (
    CancelledError,
    DiskFullError,
    NumericsError,
    OutOfMemoryError,
    OutputError,
)
from diffusers_helper.core.events import (
    Finished,
    Note,
    SectionDone,
    SectionSampled,
    StageStarted,
    StepDone,
    VideoGrown,
)
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation import generate as generation
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.generate import generate
from diffusers_helper.jobs.extending import begin_longer
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.tensor_file import TensorFile
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo, cover
from diffusers_helper.media.recipe import read_recipe
from diffusers_helper.media.tags import COMMENT, PICTURE, read_tag
from diffusers_helper.memory import Residency
from diffusers_helper.model_files import LocalFolder
from tests.quick import quick_decoding
from tests.tiny import TINY_FOLDER

SMALL = {"prompt": "the camera pans left", "seconds": 1.2, "steps": 2, "seed": 5}
SQUARE = {"width": 64, "height": 64}
"""Half the work of the folder's own size, for what is not about sizes."""


@pytest.fixture(scope="module")
def components():
    return Components(LocalFolder(TINY_FOLDER), "cpu")


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    return Photo(image=Image.fromarray(pixels), name="noise.png", notes=("The photo was odd.",))


def run(components, photo, output, checkpoint=None, **changes):
    request = GenerationRequest(**(SMALL | changes))
    return generate(JobInputs(request, {"start": photo}), components=components, output=output, checkpoint=checkpoint)


def frames_of(path):
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["original", "f1"])
def test_a_request_becomes_a_video(components, photo, tmp_path, variant):
    events = list(run(components, photo, tmp_path / "clip.v1", variant=variant))
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == ["text", "image", "image", "load", "sample", "decode", "save"]
    assert sum(isinstance(event, StepDone) for event in events) == 2
    finished = events[-1]
    assert finished == Finished(tmp_path / "clip.v1.mp4", 37)
    assert {path.name for path in tmp_path.iterdir()} == {"clip.v1.mp4", "clip.v1.png", "clip.v1.json"}
    shapes = {frame.shape for frame in frames_of(finished.path)}
    assert len(frames_of(finished.path)) == 37
    with Image.open(tmp_path / "clip.v1.png") as picture:
        assert shapes == {(picture.height, picture.width, 3)}
        assert picture.size == (144, 112)
    for name in ("clip.v1.json", "clip.v1.png", "clip.v1.mp4"):
        recipe = read_recipe(tmp_path / name)
        assert GenerationRequest(**recipe.settings) == GenerationRequest(**SMALL, variant=variant, resolution=128)
    assert recipe.photo == (tmp_path / "clip.v1.png").read_bytes()


@pytest.mark.usefixtures("_quick")
def test_a_video_carries_all_pictures_that_it_was_made_from(components, photo, tmp_path):
    end = Photo(photo.image.transpose(Image.Transpose.ROTATE_180), "end.png", ())
    request = GenerationRequest(**SMALL)
    inputs = JobInputs(request, {"end": end, "start": photo})
    list(generate(inputs, components=components, output=tmp_path / "a"))
    found = read_recipe(tmp_path / "a.mp4")
    assert (found.names, found.photo) == (("start", "end"), (tmp_path / "a.png").read_bytes())
    with Image.open(io.BytesIO(found.more["end"])) as kept:
        assert (np.asarray(kept) == cover(np.asarray(end.image), *kept.size)).all()
        assert kept.size == (144, 112)
    assert read_recipe(tmp_path / "a.png").names == ("start", "end")


@pytest.mark.usefixtures("_quick")
def test_metadata_is_left_out_on_request_or_with_a_note_where_files_cannot_carry_it(
    components, photo, tmp_path, monkeypatch
):
    request = GenerationRequest(**SMALL)
    inputs = JobInputs(request, {"start": photo})
    next(generate(inputs, components=components, output=tmp_path / "a", metadata=False))
    monkeypatch.setattr(generation, "can_carry", lambda _: False)
    first = next(run(components, photo, tmp_path / "b"))
    assert first == Note("The settings could not be written into the picture and the video.")
    list(islice(run(components, photo, tmp_path / "b"), 3))
    list(run(components, photo, tmp_path / "c"))
    with (tmp_path / "c.mp4").open("rb") as video:
        assert (read_tag(video, COMMENT, 10**9), read_tag(video, PICTURE, 10**9)) == (b"", b"")
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as picture:
            assert "Comment" not in picture.info


@pytest.mark.usefixtures("_quick")
def test_the_video_grows_section_by_section(components, photo, tmp_path):
    grown = [
        (event.frames, event.sections_done, event.path.exists())
        for event in run(components, photo, tmp_path / "clip", variant="f1", seconds=2.4, steps=1, **SQUARE)
        if isinstance(event, VideoGrown)
    ]
    assert grown == [(37, 1, True), (73, 2, True)]
    assert len(frames_of(tmp_path / "clip.mp4")) == 73


def latents_of(components, photo, output, **changes):
    """What the last step of the first section gave; nothing is decoded."""
    events = run(components, photo, output, **changes)
    return next(event.denoised for event in events if isinstance(event, StepDone) and event.step == event.steps)


@pytest.mark.slow
def test_the_seed_fixes_the_whole_video_whatever_the_global_generator_does(components, photo, tmp_path):
    torch.manual_seed(1)
    first = latents_of(components, photo, tmp_path / "a")
    torch.manual_seed(2)
    assert torch.equal(latents_of(components, photo, tmp_path / "b"), first)
    assert not torch.equal(latents_of(components, photo, tmp_path / "c", seed=6), first)
    assert not torch.equal(latents_of(components, photo, tmp_path / "d", prompt="the camera pans right"), first)


@pytest.mark.slow
def test_guidance_uses_the_negative_prompt(components, photo, tmp_path):
    plain = latents_of(components, photo, tmp_path / "a", negative_prompt="noise")
    guided = latents_of(components, photo, tmp_path / "b", negative_prompt="noise", cfg_scale=2.0)
    other = latents_of(components, photo, tmp_path / "c", negative_prompt="blur", cfg_scale=2.0)
    assert not torch.equal(plain, guided)
    assert not torch.equal(guided, other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "The photo was odd."),
        ({"mp4_crf": 0}, "compression 0 was set to 1"),
        ({"mp4_crf": 80}, "compression 80 was set to 51"),
        ({"negative_prompt": "blur"}, "no effect while CFG is 1"),
        ({"prompt": "a cat " * 400}, "truncated the prompt after"),
    ],
)
def test_what_the_user_should_know_is_said(components, photo, tmp_path, changes, words):
    seen = []
    for event in run(components, photo, tmp_path / "a", **changes):
        if isinstance(event, StepDone):
            break
        if isinstance(event, Note):
            seen.append(event.text)
    assert any(words in text for text in seen)


@pytest.mark.slow
@pytest.mark.parametrize("calls", [1, 30, 120, 400])
def test_a_check_that_raises_stops_inside_any_long_call(components, photo, tmp_path, calls):
    left = calls

    def check():
        nonlocal left
        left -= 1
        if left <= 0:
            raise CancelledError("stopped")

    inputs = JobInputs(GenerationRequest(**SMALL), {"start": photo})
    with pytest.raises(CancelledError):
        list(generate(inputs, components=components, output=tmp_path / "a", check=check))
    assert left == 0
    assert not list(tmp_path.glob("*.part"))
    assert latents_of(components, photo, tmp_path / "next", steps=1, **SQUARE).isfinite().all()


@pytest.mark.usefixtures("_quick")
def test_closing_keeps_the_finished_sections(components, photo, tmp_path):
    events = run(components, photo, tmp_path / "a", seconds=2.4, steps=1, **SQUARE)
    for event in events:
        if isinstance(event, VideoGrown):
            break
    events.close()
    assert len(frames_of(tmp_path / "a_partial_01.mp4")) == 33


def test_the_size_asked_for_wins_over_the_folders(components, photo, tmp_path):
    next(run(components, photo, tmp_path / "a", resolution=256))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (288, 224)


def test_a_full_disk_is_told_before_the_work(components, photo, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match="too little room"):
        next(run(components, photo, tmp_path / "a"))


def test_a_folder_that_cannot_be_written_is_named(components, photo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        next(run(components, photo, tmp_path / "file" / "a"))


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_running_out_of_memory_is_told_and_the_next_job_works(components, photo, tmp_path, part):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with components.vae() as vae:
        module = components.transformer("original").proj_out if part == "transformer" else vae.decoder.conv_in.conv
    hook = module.register_forward_pre_hook(out_of_memory)
    try:
        with pytest.raises(OutOfMemoryError, match="memory"):
            list(run(components, photo, tmp_path / "a", steps=1, **SQUARE))
    finally:
        hook.remove()
    assert latents_of(components, photo, tmp_path / "b", steps=1, **SQUARE).isfinite().all()


def test_latents_that_are_not_finite_stop_the_job(components, photo, tmp_path):
    transformer = components.transformer("original")
    bias = transformer.proj_out.bias
    saved = bias.clone()
    try:
        bias.fill_(float("nan"))
        with pytest.raises(NumericsError, match="not finite"):
            list(run(components, photo, tmp_path / "a"))
    finally:
        bias.copy_(saved)
    assert not list(tmp_path.glob("*.mp4"))
    assert json.loads(Path(tmp_path / "a.json").read_text())["seed"] == 5


THREE = SQUARE | {"seconds": 3.6, "steps": 1}


@pytest.fixture
def _impatient(monkeypatch):
    monkeypatch.setattr("diffusers_helper.generation.disk_wait.POLL_SECONDS", 0.01)


class Moments:
    """A whole run in `folder`, and copies of its files at many moments, as a power cut leaves them."""

    def __init__(self, components, photo, folder, variant):
        self.folder, self.cuts = folder, {}
        whole = folder / "whole"
        checkpoint = Checkpoint(whole / "job")
        for event in run(components, photo, whole / "id", checkpoint, variant=variant, **THREE):
            name = f"{type(event).__name__} {getattr(event, 'stage', '')} {len(checkpoint)}"
            if isinstance(event, StageStarted | SectionSampled | VideoGrown):
                self.cuts[name] = folder / name.replace(" ", "_")
                shutil.copytree(whole, self.cuts[name], dirs_exist_ok=True)
        self.latents = [section.latents for section in Checkpoint(whole / "job")]
        self.video = (whole / "id.mp4").read_bytes()


@pytest.fixture(scope="module", params=["original", "f1"])
def moments(request, components, tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    photo = Photo(image=Image.fromarray(pixels), name="noise.png", notes=("The photo was odd.",))
    with quick_decoding():
        return Moments(components, photo, tmp_path_factory.mktemp(request.param), request.param), request.param


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    ("moment", "sampled"),
    [
        ("StageStarted text 0", 0),
        ("StageStarted sample 0", 0),
        ("SectionSampled  1", 1),
        ("StageStarted save 2", 2),
        ("VideoGrown  2", 2),
        ("VideoGrown  3", 3),
    ],
)
def test_a_video_that_was_cut_off_goes_on_to_the_same_bits(components, photo, moments, moment, sampled):
    whole, variant = moments
    folder = whole.cuts[moment]
    checkpoint = Checkpoint(folder / "job")
    assert len(checkpoint) == sampled
    events = list(run(components, photo, folder / "id", checkpoint, variant=variant, **THREE))
    assert sum(isinstance(event, StepDone) for event in events) == 3 - sampled
    assert [section.latents.equal(latents) for section, latents in zip(checkpoint, whole.latents, strict=True)] == [
        True
    ] * 3
    assert events[-1] == Finished(folder / "id.mp4", 109)
    assert (folder / "id.mp4").read_bytes() == whole.video
    assert {path.name for path in folder.iterdir()} == {"id.mp4", "id.png", "id.json", "job"}
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert ("text" in stages) == (moment == "StageStarted text 0")


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    ("lost", "sampled"),
    [
        (["id_partial_02.mp4", "id_partial_01.mp4"], 2),
        (["job/section_001.safetensors"], 1),
        (["job/section_000.safetensors"], 0),
        (["job/conditions.safetensors"], 2),
        (["job"], 0),
    ],
    ids=lambda lost: str(lost),
)
def test_what_is_damaged_is_made_again_to_the_same_bits(components, photo, moments, tmp_path, lost, sampled):
    whole, variant = moments
    shutil.copytree(whole.cuts["StageStarted sample 2"], tmp_path / "cut")
    for name in lost:
        path = tmp_path / "cut" / name
        shutil.rmtree(path) if path.is_dir() else path.write_bytes(path.read_bytes()[:100])
    checkpoint = Checkpoint(tmp_path / "cut/job")
    assert len(checkpoint) == sampled
    list(run(components, photo, tmp_path / "cut/id", checkpoint, variant=variant, **THREE))
    assert [section.latents.equal(latents) for section, latents in zip(checkpoint, whole.latents, strict=True)] == [
        True
    ] * 3
    assert (tmp_path / "cut/id.mp4").read_bytes() == whole.video
    assert not list((tmp_path / "cut").glob("*_partial_*"))


@pytest.mark.usefixtures("_quick", "_impatient")
@pytest.mark.parametrize("refused", ["job/section_001.safetensors", "id_partial_02.mp4"])
def test_a_disk_that_fills_up_is_waited_for_and_nothing_is_lost(components, photo, moments, tmp_path, refused):
    """/dev/full refuses as a full disk does; the link to it is gone after the first try, as if somebody made room."""
    whole, variant = moments
    shutil.copytree(whole.cuts["VideoGrown  1"], tmp_path / "cut")
    (tmp_path / f"cut/{refused}.part").symlink_to("/dev/full")
    checkpoint = Checkpoint(tmp_path / "cut/job")
    events = list(run(components, photo, tmp_path / "cut/id", checkpoint, variant=variant, **THREE))
    waits = [event.text for event in events if isinstance(event, StageStarted) and event.stage == "wait"]
    assert len(waits) == 1
    assert "The disk is full" in waits[0]
    assert (tmp_path / "cut/id.mp4").read_bytes() == whole.video
    assert sum(isinstance(event, StepDone) for event in events) == 2


@pytest.mark.usefixtures("_quick", "_impatient")
@pytest.mark.parametrize("refused", ["estimate", "id.png", "id.json", "job/conditions.safetensors"])
@pytest.mark.parametrize("moments", ["f1"], indirect=True)
def test_a_disk_that_is_full_when_a_video_goes_on_is_waited_for(
    components, photo, moments, tmp_path, monkeypatch, refused
):
    whole, variant = moments
    shutil.copytree(whole.cuts["VideoGrown  1"], tmp_path / "cut")
    if refused == "estimate":
        usage, full = shutil.disk_usage, iter([0, 0])
        monkeypatch.setattr(
            "shutil.disk_usage", lambda folder: usage(folder)._replace(free=next(full, usage(folder).free))
        )
    else:
        (tmp_path / f"cut/{refused}").unlink()
        (tmp_path / f"cut/{refused}.part").symlink_to("/dev/full")
    events = list(
        run(components, photo, tmp_path / "cut/id", Checkpoint(tmp_path / "cut/job"), variant=variant, **THREE)
    )
    waits = [event for event in events if isinstance(event, StageStarted) and event.stage == "wait"]
    assert len(waits) == (2 if refused == "estimate" else 1)
    assert (tmp_path / "cut/id.mp4").read_bytes() == whole.video
    assert sum(isinstance(event, StepDone) for event in events) == 2


def test_a_new_video_is_refused_where_there_is_too_little_room(components, photo, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage._replace(free=0))
    with pytest.raises(DiskFullError, match="too little room"):
        list(run(components, photo, tmp_path / "id", Checkpoint(tmp_path / "job")))


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("moments", ["original"], indirect=True)
def test_sections_of_another_size_are_made_again(components, photo, moments, tmp_path):
    whole, variant = moments
    shutil.copytree(whole.cuts["VideoGrown  2"], tmp_path / "cut")
    for number in range(2):
        path = tmp_path / f"cut/job/section_{number:03d}.safetensors"
        tensors, _ = TensorFile("digest").read(path)
        TensorFile("digest").write(path, tensors | {"latents": tensors["latents"][..., :-1]})
    events = list(
        run(components, photo, tmp_path / "cut/id", Checkpoint(tmp_path / "cut/job"), variant=variant, **THREE)
    )
    assert sum(isinstance(event, StepDone) for event in events) == 3
    assert (tmp_path / "cut/id.mp4").read_bytes() == whole.video


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("moments", ["f1"], indirect=True)
def test_a_video_that_is_made_longer_is_the_longer_video(components, photo, moments, tmp_path):
    whole, variant = moments
    store = JobStore(tmp_path / "jobs")
    request = GenerationRequest(**SMALL | THREE | {"variant": variant, "seconds": 2.4, "keep": ("latents",)})
    short = JobInputs(request, {"start": photo})
    with store.running("a", short) as folder:
        list(generate(short, components=components, output=tmp_path / "a", checkpoint=Checkpoint(folder)))
    assert not (tmp_path / "a.png").exists()
    longer = JobInputs(begin_longer(store, "a", "b", 1.2).request, {"start": photo})
    with store.running("b", longer) as folder:
        checkpoint = Checkpoint(folder)
        assert len(checkpoint) == 2
        events = list(generate(longer, components=components, output=tmp_path / "b", checkpoint=checkpoint))
    assert sum(isinstance(event, StepDone) for event in events) == 1
    assert all(map(torch.equal, (section.latents for section in checkpoint), whole.latents))
    assert np.array_equal(frames_of(tmp_path / "b.mp4"), frames_of(whole.folder / "whole/id.mp4"))
    assert len(frames_of(tmp_path / "a.mp4")) == 73


class Watched(Residency):
    """Notes the models that are placed on the device."""

    def __init__(self, device, policy):
        super().__init__(device, policy)
        self.used = []

    def use(self, model, *, swap=False):
        self.used.append(type(model).__name__)
        return super().use(model, swap=swap)


@pytest.mark.usefixtures("_quick")
def test_a_run_that_goes_on_encodes_nothing(photo, moments):
    """And its autoencoder is placed for the first section that is decoded, not before."""
    whole, variant = moments
    folder = whole.folder / "watched"
    shutil.copytree(whole.cuts["StageStarted load 0"], folder)
    components = Components(LocalFolder(TINY_FOLDER), "cpu")
    components.residency = watched = Watched("cpu", components.policy)
    stages, used = [], []
    for event in run(components, photo, folder / "id", Checkpoint(folder / "job"), variant=variant, **THREE):
        if isinstance(event, StageStarted):
            stages.append(event.stage)
        if isinstance(event, SectionDone):
            break
        used = [*watched.used]
    assert stages == ["load", "sample", "decode"]
    assert used == ["HunyuanVideoTransformer3DModelPacked"]
    assert watched.used == [*used, "AutoencoderKLHunyuanVideo"]


@pytest.mark.usefixtures("_quick")
def test_a_finished_video_is_not_made_again(components, photo, moments):
    whole, variant = moments
    folder = whole.folder / "whole"
    (folder / "id_partial_03.mp4").touch()  # as if the power went between the last two lines
    events = list(run(components, photo, folder / "id", Checkpoint(folder / "job"), variant=variant, **THREE))
    assert events == [Finished(folder / "id.mp4", 109)]
    assert not list(folder.glob("*_partial_*"))


def black(plan, inputs, sampler, settings, postprocess, earlier):
    """Stands where `sample_sections` does: one section without a picture."""
    yield from postprocess.wrap(
        iter([SectionDone(0, torch.zeros(1), torch.full((1, 3, 37, 112, 144), -1.0))]), lambda: None
    )


@pytest.fixture
def _black(monkeypatch):
    monkeypatch.setattr(generation, "sample_sections", black)


@pytest.mark.usefixtures("_black")
def test_a_section_without_a_picture_fails_and_is_no_video(components, photo, tmp_path):
    with pytest.raises(NumericsError, match="Section 1 came out as one flat colour"):
        list(run(components, photo, tmp_path / "clip"))
    assert not list(tmp_path.glob("*.mp4"))


@pytest.mark.usefixtures("_black")
def test_a_photo_that_shows_nothing_may_become_such_a_video(components, tmp_path):
    blank = Photo(image=Image.new("RGB", (120, 90), (3, 3, 3)), name="black.png", notes=())
    assert list(run(components, blank, tmp_path / "clip"))[-1].frames == 37
