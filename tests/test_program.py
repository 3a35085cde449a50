import argparse
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diffusers_helper.app.device import pick_device, require_gpus, sole_process, sole_user
from diffusers_helper.app.groups import Groups
from diffusers_helper.app.named_jobs import EXACT_NAMES
from diffusers_helper.app.program import Program
from diffusers_helper.core.errors import CancelledError, LoraError, ModelFilesError, SettingsError
from diffusers_helper.core.events import Finished, StageStarted
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.pace import Speed
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.media.clip import open_clip
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.partials import ENVIRONMENT
from diffusers_helper.media.photo import Photo
from diffusers_helper.model_files import transformer_part
from diffusers_helper.service.locks import lock_folder, sole_user_of
from diffusers_helper.service.options import add_options, config_of
from tests.fakes import wait_for
from tests.layouts import comfyui, weights_of, write_gguf_file
from tests.lora_files import write_lora
from tests.odd_videos import video
from tests.tiny import TINY_FOLDER

F1 = transformer_part("f1")
PHOTO = Photo(Image.new("RGB", (80, 64)), "grey.png", ())


def options(*argv):
    add_options(parser := argparse.ArgumentParser())
    return config_of(parser.parse_args(argv))


def on_tiny(folder, *argv, kind=Program, variant="f1", **how):
    """A program on the tiny model; see `Program` for `how`."""
    folders = ["--outputs", str(folder), "--cache", str(folder / "cache")]
    return kind(options("--models", "tiny", "--device", "cpu", *folders, *argv), variant, **how)


@pytest.fixture
def tiny(tmp_path):
    return on_tiny(tmp_path)


def test_lora_files_of_the_model_are_the_programs_after_the_users(tmp_path):
    (models := tmp_path / "models").mkdir()
    for entry in TINY_FOLDER.iterdir():
        (models / entry.name).symlink_to(entry)
    write_lora(models / "loras" / "lean.safetensors")
    write_lora(models / "loras" / "mine.safetensors")
    write_lora(tmp_path / "own" / "mine.safetensors", rank=2)
    program = on_tiny(tmp_path, "--models", str(models), "--loras", str(tmp_path / "own"))
    assert [file.path.parent.parent.name for file in program.loras.files()] == ["models", tmp_path.name]
    request = GenerationRequest(loras=[Lora(name=name, weight=1.0) for name in ("lean", "mine")])
    digests = [lora.sha256 for lora in program.identified(request).loras]
    assert digests == [program.loras.sha256(file) for file in program.loras.files()]


def test_times_are_known_by_the_size_that_the_video_has(tiny):
    def pixels(**settings):
        return tiny.times.key(GenerationRequest(resolution=256, **settings), (80, 64)).pixels

    assert pixels() == 288 * 224
    assert pixels(shape="1:1") == 256 * 256
    assert pixels(shape="9:16") == 192 * 320
    assert pixels(shape="1:1", width=720, height=400) == 720 * 400


@pytest.mark.parametrize(("kind", "form"), [(None, "fp8"), ("Q8_0", "GGUF Q8_0")])
def test_times_and_notes_are_of_the_weights_that_compute(tmp_path, kind, form):
    """A quantised file stays as it is, whatever --weights says."""
    models = comfyui(tmp_path / "models", TINY_FOLDER)
    if kind:
        file = models / "diffusion_models" / "FramePack_F1_I2V_HY.safetensors"
        file.unlink()
        write_gguf_file(file.with_suffix(".gguf"), F1, weights_of(F1, TINY_FOLDER), TINY_FOLDER, kind)
    given = ("--models", str(models), "--device", "cpu", "--outputs", str(tmp_path), "--weights", "fp8")
    program = Program(options(*given), "f1")
    assert program.times.key(GenerationRequest(variant="f1"), (80, 64)).computer == f"cpu, auto, {form}"
    assert ("rounded to 8 bits (--weights fp8)" in program.note) is (kind is None)


def test_a_preview_decoder_that_is_not_there_is_told_and_done_without(tmp_path):
    program = on_tiny(tmp_path, "--preview-decoder", str(tmp_path / "gone.safetensors"))
    assert "gone.safetensors cannot be used, so previews show rough colours alone" in program.note
    assert "preview" not in on_tiny(tmp_path).note


@pytest.mark.parametrize(
    ("choice", "visible", "found", "expected"),
    [
        ("auto", "", "cpu", "cpu"),
        ("auto", "-1", "cpu", "cpu"),
        ("auto", "0", "cuda", "cuda"),
        ("auto", "", "mps", "mps"),
        ("cuda", "1", "cuda", "cuda"),
        ("cpu", "7", "cpu", "cpu"),
        ("cpu", "", "cuda", "cpu"),
        ("auto", "7", "cpu", "CUDA_VISIBLE_DEVICES=7"),
        ("cuda", "x", "cpu", "CUDA_VISIBLE_DEVICES=x"),
        ("cuda", "", "cpu", "no cuda device"),
        ("mps", "", "cpu", "no mps device"),
        ("cuda", "", "mps", "no cuda device"),
    ],
)
def test_pick_device(monkeypatch, choice, visible, found, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if expected in ("cpu", "cuda", "mps"):
        assert pick_device(choice, lambda: torch.device(found)) == torch.device(expected)
    else:
        with pytest.raises(SettingsError, match=expected) as refused:
            pick_device(choice, lambda: torch.device(found))
        assert "\n" not in str(refused.value)


def test_without_a_choice_a_cpu_gets_the_tiny_model_and_the_log_says_so(caplog):
    with caplog.at_level(logging.INFO):
        program = Program(options("--device", "cpu"), "f1")
    assert program.source.is_tiny
    assert program.source.note in caplog.text
    assert (program.defaults.variant, program.defaults.resolution) == ("f1", 128)


def test_without_a_choice_a_gpu_gets_the_published_models(monkeypatch):
    monkeypatch.setattr("diffusers_helper.model_files.HubSource.check", lambda source, variants, offline: None)
    program = Program(options(), "original", best_device=lambda: torch.device("cuda"))
    assert not program.source.is_tiny
    assert program.defaults.resolution == 640


def test_a_job_of_the_other_model_is_refused_while_its_files_are_lacking(tmp_path):
    models = shutil.copytree(TINY_FOLDER, tmp_path / "models", copy_function=os.symlink)
    shutil.rmtree(models / F1.repository)
    program = on_tiny(tmp_path, "--models", str(models), variant="original")
    manager = program.make_manager()
    wanted = GenerationRequest(seconds=1, steps=1)
    with pytest.raises(ModelFilesError, match=r"FramePack F1 transformer .* is missing.*Fetch it with: hf download"):
        manager.submit(JobInputs(wanted.model_copy(update={"variant": "f1"}), {"start": PHOTO}))
    assert manager.jobs() == []
    shutil.copytree(TINY_FOLDER / F1.repository, models / F1.repository)  # it was fetched meanwhile
    manager.submit(JobInputs(wanted.model_copy(update={"variant": "f1"}), {"start": PHOTO}))
    assert manager.close(60)


def test_f1s_program_needs_the_originals_files_for_what_it_leads_to_and_begins_with(tmp_path):
    models = shutil.copytree(TINY_FOLDER, tmp_path / "models", copy_function=os.symlink)
    shutil.rmtree(models / transformer_part("original").repository)
    manager = on_tiny(tmp_path, "--models", str(models)).make_manager()
    wanted = GenerationRequest(seconds=1, steps=1, variant="f1")
    from_text = JobInputs(wanted.model_copy(update={"start": "text"}), {})
    for inputs in (JobInputs(wanted, {"start": PHOTO, "end": PHOTO}), from_text):
        with pytest.raises(ModelFilesError, match=r"FramePack transformer .* is missing"):
            manager.submit(inputs)
    manager.submit(JobInputs(wanted, {"start": PHOTO}))
    assert manager.close(60)


def test_one_transformer_is_in_memory(tiny):
    assert tiny.loaded() == ()
    for variant in ("f1", "original"):
        tiny.components.load(transformer_part(variant))
        assert tiny.loaded() == (variant,)
    tiny.release()
    assert tiny.loaded() == ()


def test_missing_models_offline_name_repository_and_command():
    with pytest.raises(ModelFilesError, match=r"hunyuanvideo-community/HunyuanVideo.*hf download"):
        Program(options("--models", "framepack", "--offline", "--device", "cpu"), "original")


@pytest.mark.parametrize("argv", [["--attention", "none-such"], ["--attention", "flash"], ["--models", "/no/folder"]])
def test_wrong_choices(argv):
    with pytest.raises(SettingsError):
        Program(options("--device", "cpu", *argv), "original")


def test_a_job_runs_on_the_components_and_in_the_outputs_folder(tmp_path):
    calls = []

    def generate(inputs, *, components, output, check, **_):
        calls.append((inputs.request, inputs.start.image.getpixel((0, 0)), output))
        yield StageStarted("text", "Reading")
        components.progress.downloading("the VAE", 2_000_000_000, 5_000_000_000)
        yield Finished(output.with_suffix(".mp4"), 37)

    manager = on_tiny(tmp_path, generate=generate).make_manager()
    request = GenerationRequest(variant="f1", seed=1)
    job = manager.submit(JobInputs(request, {"start": PHOTO}))
    end = manager.wait(job, 60)
    assert manager.close(60)
    assert (end.state, end.video) == ("done", str(tmp_path / "grey_1.mp4"))
    assert calls == [(request, PHOTO.image.getpixel((0, 0)), tmp_path / "grey_1")]


def test_the_record_of_a_video_tells_how_long_it_is_with_the_given_one(tmp_path):
    def generate(inputs, *, output, **_):
        output.with_suffix(".mp4").write_bytes(b"video")
        yield Finished(output.with_suffix(".mp4"), 97, 37 if inputs.videos else None)

    tiny = on_tiny(tmp_path, generate=generate)
    clip = open_clip(video(tmp_path / "given.mp4", 60))
    inputs = JobInputs.of_videos(GenerationRequest(variant="f1", seed=1), {"before": clip})
    list(tiny.generate(inputs, "id1", check=lambda: None, report=lambda text: None))
    make(tiny, "id2")
    assert [tiny.store.done.record(name).frames for name in ("id1", "id2")] == [97, 0]


@pytest.mark.parametrize(
    ("variant", "pictures", "seconds"),
    [("f1", ("start", "end"), 10 + 15 * 4 + 7), ("f1", ("start",), 10 + 15 * 4), ("original", ("start", "end"), 70)],
)
def test_the_estimate_knows_f1s_second_model(tmp_path, variant, pictures, seconds):
    tiny = on_tiny(tmp_path)
    request = GenerationRequest(variant=variant, seconds=6, steps=3, resolution=128, loras=("a",))
    plain = request.model_copy(update={"loras": ()})
    tiny.times._known.keep(tiny.times.key(plain, (1, 1)), Speed(10, 4, 0, 0, load=7))
    assert tiny.times.estimate(plain, pictures) == Estimate(seconds, rough=False)
    if "end" in pictures:
        assert tiny.times.estimate(plain, (), {"around": None}) == Estimate(seconds, rough=False), "it leads to a video"
    assert tiny.times.estimate(request, pictures).seconds == pytest.approx(seconds + 0.04 * 60)


class Videos:
    """Makes videos of a few bytes; `calls` says where the files of each were to be."""

    def __init__(self, fault=None):
        self.calls, self.fault = [], fault

    def __call__(self, inputs, *, output, checkpoint, **_):
        self.calls.append(output)
        if self.fault:
            (checkpoint._folder / "section_000.safetensors").touch()
            output.with_name(f"{output.name}_partial_01.mp4").write_bytes(b"part")
            raise self.fault
        output.with_name(f"{output.name}.mp4").write_bytes(b"whole")
        yield Finished(output.with_name(f"{output.name}.mp4"), 37)


PAN = GenerationRequest(prompt="Pan left!", seed=7)


def make(program, name, request=PAN, **how):
    inputs = JobInputs(request, {"start": PHOTO})
    list(program.generate(inputs, name, check=lambda: None, report=lambda text: None, **how))


def test_results_have_readable_names_that_are_given_once(tmp_path):
    videos = Videos()
    tiny = on_tiny(tmp_path, generate=videos)
    for name in ("id1", "id2", "user_ann/id3"):
        make(tiny, name)
    names = ["grey_Pan-left_7", "grey_Pan-left_7_2", "user_ann/grey_Pan-left_7"]
    assert videos.calls == [tmp_path / name for name in names]
    kept = tmp_path / "jobs", tmp_path / "jobs" / "done"
    assert sorted(path.name for path in tmp_path.rglob("*.*") if path.parent not in kept) == [
        "grey_Pan-left_7.mp4",
        "grey_Pan-left_7.mp4",
        "grey_Pan-left_7_2.mp4",
    ]


def test_a_name_is_in_the_record_before_the_work_and_stays(tmp_path):
    videos = Videos(fault=CancelledError("Stopped."))
    tiny = on_tiny(tmp_path, generate=videos)
    for _ in range(2):
        with pytest.raises(CancelledError):
            make(tiny, "user_ann/id", allow_env_change=True)
    assert videos.calls == [tmp_path / "user_ann/grey_Pan-left_7"] * 2
    assert tiny.store.record("id").output == "user_ann/grey_Pan-left_7"
    with pytest.raises(CancelledError):
        make(tiny, "user_ann/other")
    assert videos.calls[-1].name == "grey_Pan-left_7_2"


def test_the_record_says_which_lora_files_a_video_was_begun_with(tmp_path):
    tensors = {"proj_out.lora_A.weight": torch.ones(1, 1), "proj_out.lora_B.weight": torch.ones(1, 1)}
    save_file(tensors, file := tmp_path / "a.safetensors")
    tiny = on_tiny(tmp_path / "results", generate=Videos(fault=CancelledError("Stopped.")))
    request = PAN.model_copy(update={"loras": (Lora(name=str(file)),)})
    for _ in range(2):
        with pytest.raises(CancelledError):
            make(tiny, "id", request)
        request = tiny.store.record("id").request
        assert request.loras[0].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    save_file(tensors | {"proj_out.alpha": torch.ones(())}, file)
    with pytest.raises(LoraError, match="not the one that the video was made with"):
        make(tiny, "id", request)
    assert tiny.store.record("id").request == request


def test_a_job_of_an_earlier_version_keeps_the_name_it_has(tmp_path):
    videos = Videos()
    tiny = on_tiny(tmp_path, generate=videos)
    tiny.store.add(JobRecord("20260101_1", PAN, output="20260101_1"), {"start": PHOTO})
    make(tiny, "20260101_1")
    assert videos.calls == [tmp_path / "20260101_1"]


def test_names_by_a_template_and_exact_ones(tmp_path):
    videos = Videos()
    for argv in (["--name-template", "clip {number}"], ["--name-template", EXACT_NAMES]):
        program = on_tiny(tmp_path, *argv, generate=videos)
        make(program, "sub/id")
        make(program, "sub/id")
    assert [path.name for path in videos.calls] == ["clip 1", "clip 2", "id", "id"]
    with pytest.raises(SettingsError, match="is no field"):
        Program(options("--device", "cpu", "--name-template", "{x}"), "f1")


@pytest.mark.parametrize("preload", [True, False])
def test_models_are_loaded_before_the_first_job_if_that_is_wanted(tiny, preload):
    manager = tiny.make_manager(preload=preload)
    assert tiny.preload.now.active is preload
    manager.start()
    try:
        wait_for(lambda: manager.stats.prepared, 60)
        assert not tiny.preload.now.active
        assert len(tiny.preload.now.parts) == (5 if preload else 0)
        assert ("components" in tiny.__dict__) is preload
    finally:
        assert manager.close(60)


def test_imports_that_fail_end_loading_ahead(tmp_path):
    class Failing(Program):
        def prepare(self):
            raise ImportError("libsomething.so")

    tiny = on_tiny(tmp_path, kind=Failing)
    manager = tiny.make_manager(preload=True)
    manager.start()
    wait_for(lambda: manager.stats.prepared, 60)
    assert manager.close(60)
    assert not tiny.preload.now.active


def test_stopping_the_program_stops_loading_ahead(tmp_path):
    class Slow(Program):
        def prepare(self):
            wait_for(lambda: manager.closing)

    tiny = on_tiny(tmp_path, kind=Slow)
    manager = tiny.make_manager(preload=True)
    manager.start()
    assert manager.close(60)
    assert "components" in tiny.__dict__
    assert not tiny.components._loaded


def test_a_download_is_told_and_can_be_stopped(tmp_path):
    said, stop = [], []

    def check():
        if stop:
            raise CancelledError("Stopped.")

    def generate(inputs, *, components, output, check, **_):
        for done in (1, 2):
            components.progress.downloading("the VAE", done * 1_000_000_000, 5_000_000_000)
            yield StageStarted("text", "Reading")

    tiny, inputs = on_tiny(tmp_path, generate=generate), JobInputs(GenerationRequest(), {"start": PHOTO})
    events = tiny.generate(inputs, "name", check=check, report=said.append)
    next(events)
    stop.append(True)
    with pytest.raises(CancelledError):
        next(events)
    assert said == ["Downloading the VAE: 1.0 of 5.0 GB"]


def test_prepare_imports_what_is_slow_and_stops_foreign_progress_bars(tiny):
    tiny.prepare()
    assert {"diffusers", "transformers.models.llama.modeling_llama"} <= set(sys.modules)
    assert not __import__("diffusers").utils.logging.is_progress_bar_enabled()


def test_release_gives_up_the_models_and_is_harmless_before_there_are_any(tiny):
    tiny.release()
    assert "components" not in tiny.__dict__
    released = []
    tiny.components = SimpleNamespace(release_all=lambda: released.append(True))
    tiny.release()
    assert released


def test_two_processes_do_not_write_into_one_folder(tiny):
    with (
        sole_process(tiny.device, tiny.outputs, 1),
        pytest.raises(SettingsError, match=r"port 1.*--outputs"),
        sole_process(tiny.device, tiny.outputs, 2),
    ):
        pytest.fail("two in one folder")


def test_a_cpu_is_shared(tiny, tmp_path):
    with sole_process(tiny.device, tiny.outputs, 1):
        tiny.outputs = tmp_path / "other"
        with sole_process(tiny.device, tiny.outputs, 2):
            pass


def test_a_gpu_is_not(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    tiny.device = torch.device("cuda", 0)
    with sole_process(tiny.device, tiny.outputs, 7860):
        message = f"process {os.getpid()}, port 7860"
        tiny.outputs = tmp_path / "other"
        with pytest.raises(SettingsError, match=message), sole_process(tiny.device, tiny.outputs, 7861):
            pytest.fail("two on one GPU")
        with pytest.raises(SettingsError, match=message), sole_user(tiny.device, "one of a group"):
            pytest.fail("a group's process beside it")
        with sole_user_of("56-78", "me", lock_folder()):
            pass
    with sole_process(tiny.device, tiny.outputs, 7861):
        pass


def test_a_download_while_loading_ahead_is_shown_and_can_be_stopped(tiny, monkeypatch):
    """As when files are removed after they were looked for: nobody has asked for a video yet."""
    shown = []

    def load(components, part):
        components.progress.downloading("the VAE", 2_000_000_000, 5_000_000_000)
        shown.extend((row.text, row.done, row.total) for row in tiny.preload.now.parts if row.text)
        raise CancelledError("This is enough.")

    monkeypatch.setattr("diffusers_helper.loading.components.Components.load", load)
    manager = tiny.make_manager(preload=True)
    manager.start()
    wait_for(lambda: not tiny.preload.now.active)
    assert manager.close(60)
    assert tiny.preload.now.error == ""
    assert shown == [("Downloading the VAE", 2_000_000_000, 5_000_000_000)]


def test_a_program_has_all_it_needs_from_the_start(tiny):
    before = {*vars(tiny)}
    tiny.components.progress.downloading("the VAE", 1, 2)  # before any job
    assert {*vars(tiny)} - before == {"components"}


@pytest.mark.parametrize(
    ("how", "place"),
    [({}, r""), ({"by_user": True}, r"user_ann/"), ({"apart": True}, r"hidden_[0-9a-f]{32}/")],
    ids=["alone", "by user", "apart"],
)
def test_where_others_reach_the_page_a_result_is_where_nobody_guesses(tmp_path, how, place):
    manager = on_tiny(tmp_path, generate=Videos()).make_manager(**how)
    job = manager.submit(JobInputs(PAN.model_copy(update={"variant": "f1"}), {"start": PHOTO}), owner="ann")
    video = manager.wait(job, 60).video
    assert manager.close(60)
    assert re.fullmatch(place + r"grey_Pan-left_7\.mp4", os.path.relpath(video, tmp_path))


class Elsewhere:
    """In the place of several GPUs: a red picture, and a video that is noted."""

    def __init__(self):
        self.pictures, self.videos = [], []

    def picture(self, inputs, *, check, report):
        self.pictures.append(inputs.request)
        yield StageStarted("sample", "Sampling")
        return np.full((64, 64, 3), (255, 0, 0), np.uint8), {"linear layers": "fp8"}

    def generate(self, inputs, *, output, **_):
        self.videos.append(inputs)
        output.with_name(f"{output.name}.mp4").write_bytes(b"whole")
        yield Finished(output.with_name(f"{output.name}.mp4"), 37)


def test_pictures_and_first_pictures_are_made_where_the_gpus_are(tmp_path):
    program = on_tiny(tmp_path, "--gpus", "0,1")
    there = Elsewhere()
    program._maker = Groups([there])
    how = {"check": lambda: None, "report": lambda text: None}
    frame = JobInputs(PAN.model_copy(update={"frame": True, "variant": "original"}), {})
    [*_, done] = program.generate(frame, "a", **how)
    picture = Image.open(done.path)
    assert picture.getpixel((9, 9)) == (255, 0, 0)
    assert "fp8" in str(picture.info), "what its process computed with"

    video = JobInputs(PAN.model_copy(update={"start": "text"}), {})
    list(program.generate(video, "b", **how))
    assert [request.frame for request in there.pictures] == [True, False]
    [made] = there.videos
    assert made.pictures["start"].image.getpixel((9, 9)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("count", "told"), [(0, "PyTorch finds no GPU here"), (1, "There is no GPU 1: PyTorch finds 1")]
)
def test_gpus_that_are_not_here_are_told_before_weights_are_looked_for(tmp_path, count, told):
    with pytest.raises(SettingsError, match=told):
        require_gpus((0, 1), lambda: count)
    require_gpus((0, 1), lambda: 2)
    if not torch.cuda.is_available():
        empty = ["--models", "framepack", "--gpus", "0,1", "--data", str(tmp_path), "--offline"]
        with pytest.raises(SettingsError, match="PyTorch finds no GPU here"):
            Program(options(*empty), "f1")


@pytest.mark.parametrize(("parallel", "workers"), [("auto", 1), ("jobs", 2)])
def test_a_queue_has_a_worker_for_each_video_that_is_made_at_a_time(tmp_path, parallel, workers):
    program = on_tiny(tmp_path, "--gpus", "0,1", "--parallel", parallel)
    assert len(program.make_manager()._workers) == workers
    assert program.gpus() == (), "before the first step"
    assert ("a video each" in program.note) == (parallel == "jobs")


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--parallel", "jobs"], "add --gpus"),
        (["--gpus", "0,1", "--parallel", "ulysses", "--stagger", "3"], "leave out one of them"),
        (["--gpus", "0,1", "--attention", "nonsense"], "no attention backend 'nonsense'"),
        (["--gpus", "0,1,2,3,4", "--parallel", "ulysses"], "cannot be shared by 5 GPUs"),
    ],
)
def test_choices_for_several_gpus_that_mean_nothing_are_refused_at_the_start(tmp_path, argv, match):
    with pytest.raises(SettingsError, match=match):
        on_tiny(tmp_path, *argv)


def test_a_video_that_several_gpus_began_goes_on_before_they_have_started(tmp_path):
    """As after a restart: nobody is asked a question that has no reason."""
    program = on_tiny(tmp_path, "--gpus", "0,1", "--parallel", "stagger")
    program.store.add(JobRecord("id1", PAN.model_copy(update={"variant": "f1"})), {"start": PHOTO})
    begun = program.components.environment.of_video("f1") | {"stagger": "13", "device": "NVIDIA L20"}
    file = program.store.path("id1") / ENVIRONMENT
    file.write_text(json.dumps(begun))
    assert program.env_warning("id1") == ""
    file.write_text(json.dumps(begun | {"stagger": "7"}))
    assert "with stagger 7; here it is 13" in program.env_warning("id1")


def test_what_is_released_includes_the_processes_of_several_gpus_that_wait(tmp_path):
    """A failed video ends its own group, so the others keep what they have loaded."""
    program = on_tiny(tmp_path, "--gpus", "0,1", "--parallel", "jobs")
    released = []
    program._maker.release = lambda: released.append(True)
    program._release_own()
    assert released == []
    program.release()
    assert released == [True]
