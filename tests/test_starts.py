"""Videos without a photo: a start made of the prompt, by a text-to-image model, or blank; gone on with and restored."""

import shutil
import warnings
import weakref

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from diffusers_helper import FramePack
from diffusers_helper.core.blank import BLANK_FRAMES, without_blank
from diffusers_helper.core.directing import direct
from diffusers_helper.core.errors import CancelledError, FramePackError, ModelFilesError, PhotoError, SettingsError
from diffusers_helper.core.events import (
    Finished,
    SectionDone,
    SectionSampled,
    StageStarted,
    StartMade,
    StepDone,
    VideoGrown,
)
from diffusers_helper.core.plan import pixel_frames
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.media.growing import GrowingVideo, count_frames
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import open_photo
from diffusers_helper.media.recipe import read_recipe
from tests.tiny import TINY_FOLDER, tiny_text

SMALL = {"prompt": "a red square", "steps": 1, "seed": 5, "width": 64, "height": 64, "seconds": 1.2}
ID = "20261128_120000_0123456789abcdef"


def load(outputs, **machine):
    framepack = FramePack.load(TINY_FOLDER, outputs=outputs, device="cpu", embedding_cache=False, **machine)
    framepack._program.prepare()
    return framepack


@pytest.fixture(scope="module")
def framepack(tmp_path_factory):
    return load(tmp_path_factory.mktemp("outputs"))


def run(framepack, fields, pictures=None, job_id=ID, check=lambda: None):
    inputs = JobInputs.of(GenerationRequest.from_fields(SMALL | fields), pictures or {})
    return framepack._program.generate(inputs, job_id, check=check, report=lambda text: None)


def found(events, kind):
    return [event for event in events if isinstance(event, kind)]


def stages(events):
    return [event.stage for event in found(events, StageStarted)]


@pytest.mark.parametrize("variant", ["original", "f1"])
@pytest.mark.parametrize("seconds", [1.2, 2.4, 6])
def test_a_blank_start_is_cut_from_the_plan(variant, seconds):
    request = GenerationRequest(variant=variant, seconds=seconds, start="colour")
    plain, cut = plan_video(variant, request.sections), direct(request).plan
    assert cut == without_blank(plain)
    assert cut.total_frames == request.total_frames == plain.total_frames - BLANK_FRAMES
    for before, after in zip(plain.sections, cut.sections, strict=True):
        assert (before.positions, before.context, before.decode) == (after.positions, after.context, after.decode)
    first = min(cut.sections, key=lambda section: section.output_index)
    assert first.trim == BLANK_FRAMES


def test_f1_cross_fades_what_the_cut_left():
    plan = direct(GenerationRequest(variant="f1", seconds=3.6, start="colour")).plan
    assert [(s.trim, s.overlap_pixels, s.new_frames) for s in plan.sections] == [(9, 0, 28), (5, 28, 36), (5, 28, 36)]


@pytest.mark.parametrize("variant", ["original", "f1"])
def test_a_cut_video_grows_by_its_plan(tmp_path, variant):
    plan = direct(GenerationRequest(variant=variant, seconds=3.6, start="colour")).plan
    video = GrowingVideo(tmp_path / "a", plan.grows_at_front, 30)
    for section in plan.sections:
        pixels = torch.rand(1, 3, pixel_frames(len(section.decode)) - section.trim, 16, 16) * 2 - 1
        video.add(pixels, section.overlap_pixels)
        assert video.frames == plan.frames_after(section.index + 1)
    assert count_frames(video.finish()) == plan.total_frames == 100


@pytest.mark.parametrize("variant", [pytest.param("original", marks=pytest.mark.slow), "f1"])
def test_a_blank_start_changes_no_latent_and_cuts_its_frames(framepack, variant):
    fields = {"variant": variant, "seed": 6}
    blank = list(run(framepack, fields | {"start": "colour", "start_colour": "White"}))
    white = {"start": open_photo(Image.new("RGB", (64, 64), "white"))}
    plain = list(run(framepack, fields, white, ID.replace("0", "1")))
    ours, theirs = (found(events, SectionDone)[0] for events in (blank, plain))
    assert (ours.latents == theirs.latents).all()
    assert (ours.pixels == theirs.pixels[:, :, BLANK_FRAMES:]).all()
    assert (blank[-1].frames, plain[-1].frames) == (28, 37)
    recipe = read_recipe(blank[-1].path)
    assert (recipe.settings["start"], recipe.settings["start_colour"]) == ("colour", "#ffffff")


def test_the_start_is_shown_before_the_video_is_made(framepack):
    events = list(run(framepack, {"start": "text", "steps": 2}))
    [made] = found(events, StartMade)
    before = events[: events.index(made)]
    assert not found(before, (StepDone, SectionSampled, SectionDone, VideoGrown))
    assert stages(before) == ["text", "image", "load", "start", "start"]
    assert isinstance(events[-1], Finished)
    assert made.path.name == "text_a-red-square_5.png"
    with Image.open(made.path) as picture:
        assert picture.size == (64, 64)
    assert made.preview.startswith(b"\xff\xd8\xff")
    assert read_recipe(events[-1].path).photo == made.path.read_bytes()


def test_the_start_is_the_single_frame_of_its_seed_and_redone_with_another(framepack):
    pictures = []
    for fields in ({"start": "text", "frame_seed": 8}, {"frame": True, "seed": 8}, {"frame": True, "seed": 9}):
        *events, finished = run(framepack, fields)
        path = found(events, StartMade)[0].path if "start" in fields else finished.path
        pictures.append(np.asarray(Image.open(path)))
    assert (pictures[0] == pictures[1]).all()
    assert not (pictures[1] == pictures[2]).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "colour"])
def test_a_video_that_goes_on_is_the_same_bit_for_bit(tmp_path, kind):
    whole, cuts = load(tmp_path / "whole"), {}
    fields = {"start": kind, "variant": "f1"}
    for event in run(whole, fields):
        if isinstance(event, StartMade | SectionSampled):
            name = f"{type(event).__name__}{len(cuts)}"
            cuts[name] = shutil.copytree(tmp_path / "whole", tmp_path / name)
    assert len(cuts) == 2
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob(f"{kind}*")}
    assert len(expected) == 3
    for name in cuts:
        again = load(tmp_path / name)
        inputs = again._program.store.inputs(ID)
        assert set(inputs.pictures) == {"start"}
        events = list(again._program.generate(inputs, ID, check=lambda: None, report=lambda text: None))
        assert not found(events, StartMade)
        assert {path.name: path.read_bytes() for path in (tmp_path / name).glob(f"{kind}*")} == expected


@pytest.mark.slow
def test_a_start_that_was_cut_off_is_made_anew_to_the_same_bits(tmp_path):
    whole = load(tmp_path / "whole")
    events = run(whole, {"start": "text"})
    for event in events:
        if isinstance(event, StageStarted) and event.stage == "start":
            shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    again = load(tmp_path / "cut")
    inputs = again._program.store.inputs(ID)
    assert not inputs.pictures
    *_, finished = again._program.generate(inputs, ID, check=lambda: None, report=lambda text: None)
    assert finished.path.read_bytes() == (tmp_path / "whole" / finished.path.name).read_bytes()


def test_a_video_is_restored_from_its_file_to_the_same_latents(framepack):
    *events, finished = run(framepack, {"start": "text", "seed": 11})
    recipe = read_recipe(finished.path)
    again = list(run(framepack, recipe.settings, {"start": open_photo(recipe.photo)}, ID.replace("0", "2")))
    ours, theirs = (found(some, SectionSampled)[0].latents for some in (events, again))
    assert (ours == theirs).all()
    assert not found(again, StartMade)
    assert read_recipe(again[-1].path).settings["start"] == "photo"


def test_a_stop_while_the_start_is_made_leaves_nothing(tmp_path):
    framepack, called = load(tmp_path), []

    def check():
        called.append(None)
        if len(called) > 40:
            raise CancelledError("Stopped.")

    with pytest.raises(CancelledError):
        list(run(framepack, {"start": "text", "steps": 50}, check=check))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_in_python(framepack):
    settings = {name: value for name, value in SMALL.items() if name != "prompt"}
    video = framepack(None, "a red square", start="text", **settings)
    assert (video.frames, video.request.start) == (37, "text")
    picture = framepack.frame("a red square", **settings)
    assert picture.size == (64, 64)
    turned = framepack.frame("turn", picture, **settings)
    assert not (np.asarray(turned) == np.asarray(picture)).all()
    with pytest.raises(PhotoError, match="no photo"):
        framepack(None, "a red square", **settings)


def test_a_record_without_a_start_is_right_only_where_one_is_made():
    made = JobRecord(ID, GenerationRequest(start="text", seed=1), pictures={})
    assert JobRecord.from_json(made.to_json().encode()) == made
    with pytest.raises(ValueError, match="pictures"):
        JobRecord.from_json(JobRecord(ID, GenerationRequest(seed=1), pictures={}).to_json().encode())


@pytest.mark.parametrize(
    ("written", "read"),
    [("white", "#ffffff"), ("#808080", "#808080"), (" #fff ", "#ffffff"), ("rgba(12.6, 300, 0, 0.5)", "#0dff00")],
)
def test_colours(written, read):
    assert GenerationRequest.from_fields({"start_colour": written}).start_colour == read


@pytest.mark.parametrize("written", ["", "colourful", "#12", "rgb(a,b,c)", "rgb(1e999,0,0)", "x" * 10_000])
def test_what_is_no_colour_is_told(written):
    with pytest.raises(SettingsError, match="white"):
        GenerationRequest.from_fields({"start_colour": written})


@pytest.fixture(scope="module")
def every_pipeline():
    """What diffusers' automatic pipeline imports, some of which warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert diffusers.AutoPipelineForText2Image


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory, every_pipeline):
    """A text-to-image pipeline with random weights, saved as people have it."""
    torch.manual_seed(0)
    tokenizer = tiny_text(TINY_FOLDER).tokenizer_2
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    blocks = {"block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1}
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            **blocks | {"block_out_channels": (4, 4, 4, 8)},
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            **blocks,
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("stable diffusion")
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.slow
def test_a_text_to_image_model_makes_the_start_and_is_gone(tmp_path, stable_diffusion, monkeypatch):
    framepack, loaded = load(tmp_path / "a", start_from=str(stable_diffusion)), []
    load_pipeline = diffusers.AutoPipelineForText2Image.from_pretrained

    def watched(*model, **how):
        assert not framepack._program.components._loaded, "nothing else is in memory"
        pipeline = load_pipeline(*model, **how)
        loaded.append(weakref.ref(pipeline.unet))
        return pipeline

    monkeypatch.setattr(diffusers.AutoPipelineForText2Image, "from_pretrained", watched)
    framepack.frame("a cat", seed=1, steps=1, width=64, height=64)  # after which some models are loaded
    made, events = b"", []
    for event in run(framepack, {"start": "model"}):
        assert not events or loaded[0]() is None, "it is gone as soon as the picture is made"
        events.append(event)
        if isinstance(event, StartMade):
            made = event.path.read_bytes()
        if isinstance(event, StepDone):
            break
    assert stages(events)[0] == "start"
    framepack = load(tmp_path / "b", start_from=str(stable_diffusion))
    other = next(event for event in run(framepack, {"start": "model"}) if isinstance(event, StartMade))
    assert other.path.read_bytes() == made != b""
    assert len(loaded) == 2


@pytest.mark.slow
def test_who_goes_on_needs_the_model_no_more(tmp_path, stable_diffusion):
    framepack = load(tmp_path / "whole", start_from=str(stable_diffusion))
    for event in run(framepack, {"start": "model"}):
        if isinstance(event, StartMade):
            shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    again = load(tmp_path / "cut")
    *_, finished = again._program.generate(
        again._program.store.inputs(ID), ID, check=lambda: None, report=lambda text: None
    )
    assert finished.path.read_bytes() == event.path.read_bytes()


def another_kind(folder, _model):
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    DDPMPipeline(unet, DDIMScheduler()).save_pretrained(folder)


def only_pickles(folder, model):
    shutil.copytree(model, folder, dirs_exist_ok=True)
    for weights in folder.rglob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))


def one_pickle(folder, model):
    shutil.copytree(model, folder, dirs_exist_ok=True)
    weights = folder / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))


def cut_short(folder, model):
    shutil.copytree(model, folder, dirs_exist_ok=True)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def code_of_its_own(folder, model):
    shutil.copytree(model, folder, dirs_exist_ok=True)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"StableDiffusionPipeline"', '["evil", "EvilPipeline"]'))
    (folder / "evil.py").write_text("raise SystemExit('this ran')")


def nothing(*_):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (nothing, "model_index.json"),
        (another_kind, "is no text-to-image model"),
        (only_pickles, "no file named .*safetensors"),
        (one_pickle, "no file named .*safetensors"),
        (cut_short, "Unable to load weights"),
        (code_of_its_own, "is no text-to-image model"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_sentence(tmp_path, stable_diffusion, make, said):
    (tmp_path / "model").mkdir()
    make(tmp_path / "model", stable_diffusion)
    framepack = load(tmp_path / "out", start_from=str(tmp_path / "model"))
    with pytest.raises(ModelFilesError, match=said) as raised:
        list(run(framepack, {"start": "model"}))
    assert str(tmp_path / "model") in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "out").glob("*.*"))


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        (None, SettingsError, "--start-from MODEL"),
        ("./nowhere/at all", SettingsError, "no such folder"),
        pytest.param(
            "somebody/a-model-that-is-not-here", ModelFilesError, "cannot be downloaded", marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks`")  # an argument that diffusers still gives
def test_a_model_that_is_not_here_is_one_sentence(tmp_path, model, error, said, request):
    if error is ModelFilesError:  # only then is diffusers asked
        request.getfixturevalue("every_pipeline")
    framepack = load(tmp_path, start_from=model, offline=True)
    with pytest.raises(FramePackError, match=said) as raised:
        list(run(framepack, {"start": "model"}))
    assert isinstance(raised.value, error)
