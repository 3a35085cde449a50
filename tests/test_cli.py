"""The command line with a fake program: everything but the models."""

import signal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_helper.commands import cli
from diffusers_helper.commands.terminal import SETTINGS
from diffusers_helper.core.errors import ModelFilesError, OutputError
from diffusers_helper.core.events import Finished, Note, StageStarted, StepDone, VideoGrown
from diffusers_helper.core.request import OF_VIDEOS, GenerationRequest
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.recipe import png_comment, recipe_of
from diffusers_helper.media.tags import Tags
from diffusers_helper.media.video import encode_mp4
from tests.clips import clip

pytestmark = pytest.mark.usefixtures("kept_environment")


class FakeProgram:
    """Stands where diffusers_helper.app.program.Program does; `failure` comes after the first section."""

    made: "list[FakeProgram]"
    defaults = GenerationRequest(resolution=128, steps=4)
    note = "The tiny model is at work."
    outputs: Path
    store: JobStore
    failure: BaseException | None = None
    interrupts = 0
    quits = 0
    missing = False

    def __init__(self, options, variant):
        if self.missing:
            raise ModelFilesError("model.safetensors of some/repository is missing.")
        self.options, self.variant = options, variant
        self.made.append(self)

    def prepare(self):
        pass

    def generate(self, inputs, name, *, check, report):
        self.inputs, self.photo = inputs, inputs.lead
        self.events = self._events(
            inputs.request, name, report
        )  # held, so that it is not the garbage collector that closes it
        return self.events

    def _events(self, request, name, report):
        self.request, self.closed, self.end, self.steps = request, False, None, 0
        try:
            yield StageStarted("text", "Reading the prompt")
            report("Downloading the text encoder")
            yield Note("The prompt was truncated.")
            for section in range(2):
                for step in range(4):
                    yield StepDone(section=section, sections=2, step=step + 1, steps=4, denoised=None)
                    self.steps += 1
                    if self.steps == self.quits:
                        signal.raise_signal(signal.SIGQUIT)
                path = self.outputs / f"{name}_partial_{section + 1:02d}.mp4"
                path.write_bytes(b"part")
                yield VideoGrown(path, 37, section + 1)
                if self.failure:
                    raise self.failure
                for _ in range(self.interrupts):
                    signal.raise_signal(signal.SIGINT)
                yield Note("Still here.")
            final = self.outputs / f"{name}.mp4"
            final.write_bytes(b"whole video")
            yield Finished(final, 73)
        except BaseException as error:
            self.end = type(error)
            raise
        finally:
            self.closed = True


@pytest.fixture
def program(monkeypatch, tmp_path):
    (tmp_path / "outputs").mkdir()
    fake = type("Fake", (FakeProgram,), {"made": [], "outputs": tmp_path / "outputs"})
    fake.store = JobStore(tmp_path / "outputs/jobs")
    fake.main = staticmethod(lambda argv: cli.main(argv, fake))
    monkeypatch.setattr(
        "diffusers_helper.media.photo.open_photo",
        lambda given: (
            f"photo {'in the video' if given == Path('made.png').read_bytes() else given}"
            if isinstance(given, bytes)
            else f"photo {given}"
        ),
    )
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    yield fake
    assert signal.getsignal(signal.SIGINT) is before


def kept(program):
    return sorted(path.name for path in program.outputs.iterdir())


def test_the_video_goes_where_it_should_and_only_its_path_to_stdout(program, capsys):
    assert program.main(["generate", "lion.jpg", "The lion roars", "--seconds", "2", "-o", "out.mp4"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "out.mp4\n"
    assert Path("out.mp4").read_bytes() == b"whole video"
    assert "Downloading the text encoder: 100%\n" in shown.err
    for text in (
        "The tiny model is at work.",
        "Reading the prompt",
        "Downloading the text",
        "The prompt was truncated.",
    ):
        assert text in shown.err
    assert not [name for name in kept(program) if "partial" not in name]
    assert program.made[0].closed


@pytest.mark.parametrize("name", [f"{'x' * length}.mp4" for length in (246, 247, 251)] + [f"{'長' * 83}.mp4"])
def test_a_name_may_have_all_the_bytes_there_are(program, name, capsys):
    assert program.main(["generate", "lion.jpg", "The lion roars", "-o", name]) == 0
    assert Path(name).read_bytes() == b"whole video"
    assert [path.name for path in Path().iterdir() if path.is_file()] == [name]


def test_a_name_that_is_no_unicode_is_told_with_its_bytes(program, capfdbinary):
    assert program.main(["generate", "caf\udce9.jpg", "Wave", "-o", "caf\udce9.mp4"]) == 0
    assert Path("caf\udce9.mp4").read_bytes() == b"whole video"
    assert capfdbinary.readouterr().out == b"caf\xe9.mp4\n"


@pytest.mark.parametrize(
    "photo", ["The dancer turns slowly and then waves. " * 20, "慢慢" * 50, f"a/{'x' * 256}/b.jpg"]
)
def test_a_prompt_in_the_photos_place_is_told_before_anything_is_loaded(program, photo, capsys):
    assert program.main(["generate", photo, "photo.jpg"]) == 2
    assert "Were two arguments swapped?" in capsys.readouterr().err
    assert not program.made


def test_without_o_it_stays_in_the_outputs(program, capsys):
    assert program.main(["generate", "lion.jpg", ""]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == program.outputs
    assert path.read_bytes() == b"whole video"


def test_settings_come_from_the_options_then_the_models_then_the_request(program):
    argv = ["generate", "a.png", "p", "--seconds", "3", "--variant", "f1", "--seed", "8", "--cfg-scale", "2.5"]
    argv += ["--teacache", "--negative-prompt", "-"]
    assert program.main(argv) == 0
    made = program.made[0]
    expected = {"prompt": "p", "seconds": 3, "variant": "f1", "seed": 8, "cfg_scale": 2.5, "teacache": True}
    expected |= {"negative_prompt": "-", "resolution": 128, "steps": 4, "guidance_scale": 10}
    assert made.request == GenerationRequest(**expected)
    assert made.variant == "f1"


def test_lora_files_and_their_weights(program):
    argv = ["generate", "a.png", "p", "--lora", "a.safetensors", "--lora", "b=-0.5"]
    assert program.main([*argv, "--lora", "c=[0s-2.4s: 0.2] [2.4s-: 1.0]"]) == 0
    found = [(lora.name, lora.weight) for lora in program.made[0].request.loras]
    assert found == [("a.safetensors", 1.0), ("b", -0.5), ("c", ((0.0, 0.2), (2.4, 1.0)))]


@pytest.mark.parametrize("given", [[], ["--seed", "-1"]])
def test_a_random_seed_is_told(program, given, capsys):
    seeds = []
    for _ in range(2):
        assert program.main(["generate", "a.png", "p", *given]) == 0
        seeds.append(program.made[-1].request.seed)
        assert f"The seed of this video is {seeds[-1]}." in capsys.readouterr().err
    assert min(seeds) >= 0
    assert seeds[0] != seeds[1]
    assert program.main(["generate", "a.png", "p", "--seed", "8"]) == 0
    assert "seed" not in capsys.readouterr().err


def test_every_setting_of_a_request_has_an_option(program):
    others = {"prompt", "variant", "teacache", "key_seconds", "loras", "frame", "forget_at_changes", *OF_VIDEOS}
    assert set(SETTINGS) | others == set(GenerationRequest.model_fields)
    argv = ["generate", "a.png", "p", "--resolution", "256", "--steps", "9", "--guidance-scale", "3", "--mp4-crf", "20"]
    argv += ["--preserved-memory-gb", "2", "--cfg-rescale", "0.5", "--keep", "recipe,latents"]
    assert program.main(argv) == 0
    request = program.made[0].request
    assert (request.resolution, request.steps, request.guidance_scale, request.mp4_crf) == (256, 9, 3, 20)
    assert (request.preserved_memory_gb, request.cfg_rescale) == (2, 0.5)
    assert request.keep == ("recipe", "latents")


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        (["--seconds", "0"], "seconds"),
        (["--seconds", "nan"], "seconds"),
        (["--steps", "1.5"], "steps"),
        (["--seed", "abc"], "seed"),
        (["--seed", "1e30"], "seed"),
        (["--cfg-scale", "99"], "cfg_scale"),
        (["--resolution", "100"], "resolution"),
        (["--lora", "a=much"], "a number such as 0.8"),
        (["--lora", "a=11"], "from -10 to 10"),
        (["-o", "out.avi"], ".mp4"),
        (["-o", "missing/out.mp4"], "folder"),
        (["-o", "outputs/folder.mp4"], "folder"),
        (["-o", "a.png/out.mp4"], "folder"),
        (["-o", "/proc/out.mp4"], "/proc/out.mp4 could not be written"),
        (["-o", f"{'x' * 252}.mp4"], "No file can be called"),
        (["-o", f"{'x' * 300}/out.mp4"], "No file can be called"),
        (["-o", f"{'長' * 84}.mp4"], "No file can be called"),
        (["--recipe", "x" * 300], "No file can be called"),
        (["--outputs", "x" * 300], "No file can be called"),
        (["--cache", "x" * 300], "No file can be called"),
    ],
    ids=" ".join,
)
def test_wrong_settings_exit_2_before_anything_is_loaded(program, argv, field, capsys):
    (program.outputs / "folder.mp4").mkdir()
    assert program.main(["generate", "a.png", "p", *argv]) == 2
    assert field in capsys.readouterr().err
    assert not program.made


@pytest.fixture
def recipe(program):
    """A picture and a JSON file with settings, in the current folder."""
    text = recipe_of(GenerationRequest(prompt="a lion", variant="f1", seed=9, steps=7, resolution=256))
    Image.new("RGB", (64, 64)).save("made.png", pnginfo=png_comment(text))
    Path("made.json").write_text(text, encoding="utf-8")
    Path("wide.json").write_text(text, encoding="utf-16")
    growing = GrowingVideo(Path("made"), grows_at_front=False, crf=30, tags=Tags(text, Path("made.png").read_bytes()))
    growing.add(clip(5), 0)
    growing.finish()
    return GenerationRequest(prompt="a lion", variant="f1", seed=9, steps=7, resolution=256)


@pytest.mark.parametrize(
    ("argv", "photo", "changes"),
    [
        (["--recipe", "made.png"], "made.png", {}),
        (["--recipe", "made.mp4"], "in the video", {}),
        (["a.jpg", "--recipe", "made.mp4"], "a.jpg", {}),
        (["a.jpg", "--recipe", "made.png", "--seed", "3"], "a.jpg", {"seed": 3}),
        (["a.jpg", "a bear", "--recipe", "made.json", "--teacache"], "a.jpg", {"prompt": "a bear", "teacache": True}),
        (["a.jpg", "--recipe", "made.json", "--variant", "original"], "a.jpg", {"variant": "original"}),
        (["a.jpg", "--recipe", "wide.json"], "a.jpg", {}),
    ],
)
def test_settings_come_from_a_recipe_and_what_is_given_wins(program, recipe, argv, photo, changes):
    assert program.main(["generate", *argv]) == 0
    assert program.made[0].request == recipe.model_copy(update=changes)
    assert program.made[0].photo == f"photo {photo}"
    assert program.made[0].variant == changes.get("variant", "f1")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "Give a PHOTO and a PROMPT"),
        (["a.jpg"], "Give a PHOTO and a PROMPT"),
        (["--recipe", "made.json"], "has settings and no photo"),
        (["a.jpg", "--recipe", "nothing.json"], "holds no settings"),
        (["a.jpg", "--recipe", "made.json", "--steps", "0"], "steps: "),
    ],
)
def test_what_a_recipe_cannot_give_exits_2(program, recipe, argv, words, capsys):
    assert program.main(["generate", *argv]) == 2
    assert words in capsys.readouterr().err
    assert not program.made


@pytest.mark.parametrize(
    "argv",
    [[], ["generate", "a.png", "p", "--variant", "f2"], ["generate", "a.png", "p", "--window", "3"]],
)
def test_wrong_arguments_exit_2(argv):
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2


def test_a_bad_photo_exits_2(program, monkeypatch, tmp_path, capsys):
    monkeypatch.undo()
    assert program.main(["generate", str(tmp_path / "none.png"), "p"]) == 2
    assert "none.png" in capsys.readouterr().err


def test_missing_models_exit_3(program, capsys):
    program.missing = True
    assert program.main(["generate", "a.png", "p"]) == 3
    assert "some/repository" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("failure", "shown"), [(OutputError("The disk is full."), "The disk is full."), (KeyError(), "")]
)
def test_a_failure_exits_1_and_says_what_is_kept(program, failure, shown, capsys):
    program.failure = failure
    assert program.main(["generate", "a.png", "p", "-o", "out.mp4"]) == 1
    captured = capsys.readouterr()
    assert shown in captured.err
    assert f"What was finished is kept: {program.outputs / kept(program)[0]}" in captured.err
    assert captured.out == ""
    assert not Path("out.mp4").exists()


@pytest.mark.parametrize(("times", "end"), [(1, GeneratorExit), (2, KeyboardInterrupt)])
def test_ctrl_c_exits_130_and_says_what_is_kept(program, times, end, capfd):
    program.interrupts = times
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        assert program.main(["generate", "a.png", "p", "-o", "out.mp4"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    shown = capfd.readouterr().err
    assert "press Ctrl+C again" in shown
    assert "Traceback" not in shown
    assert "What was finished is kept" in shown
    assert [name[-15:] for name in kept(program)] == ["_partial_01.mp4"]
    assert program.made[0].closed
    assert program.made[0].end is end


def test_ctrl_backslash_ends_after_the_section(program, capfd):
    before = signal.getsignal(signal.SIGQUIT)
    program.quits = 1
    assert program.main(["generate", "a.png", "p", "-o", "out.mp4"]) == 130
    assert "Stopping after this section" in capfd.readouterr().err
    assert [name[-15:] for name in kept(program)] == ["_partial_01.mp4"]
    assert program.made[0].steps == 4
    assert signal.getsignal(signal.SIGQUIT) is before


def test_ctrl_backslash_in_the_last_section_is_the_end_of_the_video(program):
    program.quits = 5
    assert program.main(["generate", "a.png", "p", "-o", "out.mp4"]) == 0
    assert Path("out.mp4").exists()


def test_a_full_disk_at_the_target_keeps_the_video(program, monkeypatch, capsys):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    assert program.main(["generate", "a.png", "p", "-o", "out.mp4"]) == 1
    assert "full" in capsys.readouterr().err
    assert not list(Path().glob("*.mp4*"))
    assert [name for name in kept(program) if "partial" not in name]


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "generate" in capsys.readouterr().out


def test_end_and_key_pictures_and_where_they_are(program):
    argv = ["generate", "lion.jpg", "[0s: Roar] [2.4s: Sleep]", "--end-photo", "lion.jpg", "--end-strength", "0.5"]
    argv += ["--at", "3.6=lion.jpg", "--at", "1.2s=lion.jpg", "--shape", "16:9", "--focus", "0.2,0.9", "--blend", "2"]
    argv += ["--forget-at-changes"]
    assert program.main(argv) == 0
    inputs = program.made[-1].inputs
    assert sorted(inputs.pictures) == ["end", "key_1", "key_2", "start"]
    request = inputs.request
    assert (request.key_seconds, request.end_strength, request.blend) == ((1.2, 3.6), 0.5, 2)
    assert (request.shape, request.focus) == ("16:9", (0.2, 0.9))
    assert (request.landing, request.forget_at_changes) == (2, True)


@pytest.mark.parametrize("value", ["lion.jpg", "=lion.jpg", "soon=lion.jpg"])
def test_a_key_picture_needs_its_second(program, value, capsys):
    with pytest.raises(SystemExit):
        program.main(["generate", "lion.jpg", "Roar", "--at", value])
    assert "SECONDS=FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "videos", "variant"),
    [
        (["connect", "a.mp4", "b.mp4", "--variant", "f1"], {"before": "a.mp4", "after": "b.mp4"}, "f1"),
        (["loop", "a.mp4"], {"around": "a.mp4"}, "original"),
        (["extend", "a.mp4", "--seconds", "2"], {"before": "a.mp4"}, "original"),
        (["extend", "a.mp4", "--seconds", "2", "--before", "--variant", "f1"], {"after": "a.mp4"}, "original"),
        (["redo", "a.mp4", "--from", "0.2", "--to", "1.4"], {"around": "a.mp4"}, "original"),
        (["redo", "made", "--from", "0.5", "--to", "1.7"], {"before": "made.mp4"}, "original"),
        (["insert", "a.mp4", "--at", "1", "--variant", "f1"], {"around": "a.mp4"}, "f1"),
    ],
)
def test_given_videos(program, tmp_path, argv, videos, variant):
    for name in ("a.mp4", "b.mp4", "outputs/made.mp4"):
        encode_mp4([np.full((64, 64, 3), 90, np.uint8)] * 50, tmp_path / name, Fraction(30), 30)
    assert program.main([*argv, "--prompt", "Wave", "--outputs", "outputs"]) == 0
    inputs = program.made[-1].inputs
    assert {use: clip.path.name for use, clip in inputs.videos.items()} == videos
    assert (inputs.request.variant, inputs.request.prompt) == (variant, "Wave")
    assert program.made[-1].variant == variant


def test_a_part_that_is_made_anew_keeps_the_settings_of_its_video(program, tmp_path):
    tags = Tags(
        recipe_of(GenerationRequest(steps=3, resolution=256, seed=5, prompt="Roar", keep=(), loras=["film=0.5"]))
    )
    video = GrowingVideo(tmp_path / "made", False, 16, tags=tags)
    video.add(clip(50, height=64, width=64), 0)
    video.finish()
    assert program.main(["redo", "made.mp4", "--from", "0.1", "--to", "1", "--prompt", "Wave", "--steps", "2"]) == 0
    request = program.made[-1].inputs.request
    assert (request.steps, request.resolution, request.prompt, request.keep) == (2, 256, "Wave", ("photo", "recipe"))
    assert request.replaced == (0.1, 1.3)
    assert [lora.text for lora in request.loras] == ["film=0.5"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["redo", "a.mp4", "--from", "1", "--to", "9"], "not in the video"),
        (["redo", "none", "--from", "0", "--to", "1"], "There is no video none"),
        (["redo", "a.mp4", "--from", "1.2", "--to", "0.6"], "They end before they begin."),
        (["redo", "cut.mp4", "--from", "0", "--to", "1.2"], "cut.mp4"),
        (["connect", "a.mp4", "cut.mp4"], "cut.mp4"),
        (["extend", "cut.mp4", "--seconds", "2"], "cut.mp4"),
        (["generate", "lion.jpg", "Roar", "--focus", "2,0"], "focus: should be at most 1."),
        (["insert", "a.mp4", "--at", "9"], "not inside the video"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(program, tmp_path, argv, says, capsys):
    encode_mp4([np.full((64, 64, 3), 90, np.uint8)] * 50, tmp_path / "a.mp4", Fraction(30), 30)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:500])
    assert program.main(argv) == 2
    assert says in capsys.readouterr().err
    assert program.made == []


def test_how_much_longer_has_to_be_said(program, capsys):
    assert program.main(["extend", "a.mp4"]) == 2
    assert "--seconds" in capsys.readouterr().err
    assert program.main(["extend", "none.mp4", "--seconds", "2"]) != 0
    assert "none.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--prompt", "Wave"], ["--steps", "9"], ["--before"], ["--variant", "f1"], ["--seconds", "soon"]]
)
def test_a_video_made_here_goes_on_with_its_own_settings(program, options, capsys):
    assert program.main(["extend", "20261128_a", "--seconds", "2", *options]) == 2
    assert "--seconds" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--shape", "--width", "--focus", "--end-strength"])
def test_what_has_no_meaning_for_a_given_video_is_no_option(program, option):
    with pytest.raises(SystemExit):
        program.main(["loop", "a.mp4", option, "1"])


def test_where_one_video_is_made_after_the_other_gpus_make_none_of_their_own(program, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(photo := tmp_path / "photo.png")
    assert cli.main(["generate", str(photo), "p", "--gpus", "0,1", "--parallel", "jobs"], program) == 2
    assert "--parallel jobs is for the queue of the page" in capsys.readouterr().err
    assert program.made == []
