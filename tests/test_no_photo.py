"""Ways in for what needs no photo: command line, lists, the page and its scripts, on programs that compute nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from diffusers_helper.commands import cli
from diffusers_helper.commands.batch_list import plan, read_list
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.events import Finished, StageStarted, StartMade, StepDone
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.api.handlers import ApiHandlers
from diffusers_helper.gradio.client_jobs import ClientJobs, new_client_id
from diffusers_helper.gradio.create.no_photo import NoPhotoHandlers
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.inputs import control_value, uploaded_file
from diffusers_helper.gradio.stage.handlers import PageHandlers
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.pace import Pace
from diffusers_helper.jobs.progress import JobSnapshot, changes
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import photo_of
from diffusers_helper.media.recipe import png_comment, recipe_of
from tests.fakes import FULL, GOOD, wait_for

FRAME_SETTINGS = {"frame_time": 9, "frame_slots": ["post", "2x", "4x"]}


class FakeProgram:
    """Stands where app.program.Program does; what is asked of it is noted."""

    defaults = GenerationRequest(resolution=128, steps=4)
    note = ""
    source = SimpleNamespace(title="tiny", check=lambda *_, **__: None)

    def __init__(self, config, variant):
        self.config, self.variant, self.outputs = config, variant, Path("outputs").resolve()
        self.store, self.count = JobStore(self.outputs / "jobs"), 0
        self.made.append(self)

    def fault(self):
        return ""

    def prepare(self):
        self.outputs.mkdir(exist_ok=True)

    def identified(self, request):
        return request

    def generate(self, inputs, name, *, check, report):
        self.inputs = inputs
        path = self.outputs / f"{name}.{'png' if inputs.request.frame else 'mp4'}"
        self.count += 1
        yield StageStarted("start", "Making")
        if inputs.request.start != "photo":
            yield StartMade(self.outputs / f"{name}.png", b"")
        path.write_bytes(b"made")
        yield Finished(path, inputs.request.total_frames)


@pytest.fixture
def program(tmp_path, monkeypatch, kept_environment):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 96), "red").save("photo.png")
    fake = type("Fake", (FakeProgram,), {"made": []})
    fake.main = staticmethod(lambda *argv: cli.main(argv, fake))
    return fake


@pytest.mark.parametrize(
    ("argv", "fields"),
    [
        (["--text-start", "A fox"], {"start": "text"}),
        (["--start", "text", "A fox", "--frame-seed", "3"], {"start": "text", "frame_seed": 3}),
        (["--start-colour", "white", "A fox"], {"start": "colour", "start_colour": "#ffffff"}),
        (["--start-from", "some/model", "A fox"], {"start": "model"}),
        (["A fox", "--frame", "-o", "out.png"], {"frame": True, "start": "photo"}),
        (["--frame", "--text-start", "A fox", "-o", "out.png"], {"frame": True, "start": "text"}),
        (
            ["--frame", "A ./fox/", "--frame-time", "1", "--frame-slots", "2x", "-o", "out.png"],
            {"frame": True, "frame_time": 1, "frame_slots": ("2x",), "prompt": "A ./fox/"},
        ),
    ],
)
def test_a_prompt_alone_is_enough(program, argv, fields, capsys):
    assert program.main("generate", *argv, "--seed", "1") == 0, capsys.readouterr().err
    [made] = program.made
    assert made.inputs.pictures == {}
    assert {name: getattr(made.inputs.request, name) for name in fields} == fields
    assert made.inputs.request.prompt.startswith("A ")
    shown = capsys.readouterr()
    if "-o" in argv:
        assert (shown.out, Path("out.png").read_bytes()) == ("out.png\n", b"made")
    elif fields["start"] != "photo":
        assert "The first picture: " in shown.err
    if "--start-from" in argv:
        assert made.config.start_from == "some/model"


def test_control_pictures_of_a_single_one(program):
    argv = ["photo.png", "dress", "--end-photo", "photo.png", "--frame", "-o", "out.png"]
    assert program.main("generate", *argv) == 0
    assert set(program.made[0].inputs.pictures) == {"start", "end"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["A fox"], "Give a PHOTO and a PROMPT"),
        ([], "Give a PHOTO and a PROMPT"),
        (["--text-start"], "Give a PHOTO and a PROMPT"),
        (["photo.png", "A fox", "--text-start"], "no other start"),
        (["photo.png", "A fox", "--start-colour", "white"], "no other start"),
        (["--text-start", "A fox", "-o", "out.png"], "end with .mp4"),
        (["--frame", "A fox", "-o", "out.mp4"], "end with .png"),
        (["--start-colour", "nothing", "A fox"], "start_colour"),
        (["--start", "nowhere", "A fox"], "start: should be one of"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(program, argv, said, capsys):
    assert program.main("generate", *argv) == 2
    assert said in capsys.readouterr().err
    assert not program.made


def recipe_file(name, request, pictures=("start",)):
    text = recipe_of(request, pictures)
    if name.endswith(".png"):
        Image.new("RGB", (96, 96)).save(name, pnginfo=png_comment(text))
    else:
        Path(name).write_text(text)
    return name


@pytest.mark.parametrize(
    ("request_", "pictures", "starts_with"),
    [
        (GenerationRequest(start="text"), ("start",), {"start"}),
        (GenerationRequest(start="colour"), ("start",), set()),
        (GenerationRequest(frame=True), (), set()),
    ],
)
def test_a_recipe_brings_a_made_start_as_the_photo_but_no_blank_and_no_result(program, request_, pictures, starts_with):
    file = recipe_file("made.png", request_, pictures)
    assert program.main("generate", "--recipe", file) == 0
    [made] = program.made
    assert set(made.inputs.pictures) == starts_with
    assert made.inputs.request.start == ("photo" if starts_with else request_.start)


def test_a_recipe_of_a_made_start_without_its_picture_makes_it_again(program):
    assert program.main("generate", "--recipe", recipe_file("made.json", GenerationRequest(start="text", seed=4))) == 0
    request = program.made[0].inputs.request
    assert (request.start, request.seed, program.made[0].inputs.pictures) == ("text", 4, {})


def test_a_recipe_of_a_picture_with_controls_asks_for_them(program, capsys):
    file = recipe_file("made.png", GenerationRequest(frame=True), ("start", "end"))
    assert program.main("generate", "--recipe", file) == 0
    assert "Not all pictures" in capsys.readouterr().err


def listed(name, text, **how):
    Path(name).write_text(text)
    return plan(read_list(Path(name), **how).entries, {"seed": 1}, "tiny")


def test_rows_without_a_photo(program):
    jobs = listed(
        "jobs.csv",
        "photo,start,frame,prompt,start_colour\n"
        ",text,,A fox,\n,colour,,A fox,white\nphoto.png,text,,A fox,\n,,true,A fox,\n,,,A fox,\n,photo,,A fox,\n",
    )
    assert [job.problem.rpartition(": ")[2] for job in jobs] == [""] * 4 + ["it names no photo."] * 2
    assert [job.request.start for job in jobs[:4]] == ["text", "colour", "photo", "photo"]
    assert [job.name.partition("_")[0] for job in jobs[:4]] == ["text", "colour", "photo", "photo"]
    assert len({job.name for job in jobs[:4]}) == 4
    again = listed("more.jsonl", json.dumps({"prompt": "A fox", "start": "text"}))
    assert again[0].name == jobs[0].name, "whatever the list, it is the same video"


def test_a_start_for_all_rows(program):
    text = "prompt\nA fox\n"
    with pytest.raises(SettingsError, match="names no photo"):
        listed("jobs.csv", text)
    [job] = listed("jobs.csv", text, needs_photo=False)
    assert job.problem, "the settings for all say what it begins with"
    Path("jobs.csv").write_text(text)
    [job] = plan(read_list(Path("jobs.csv"), needs_photo=False).entries, {"start": "text", "seed": 1}, "tiny")
    assert (job.problem, job.request.start) == ("", "text")


def test_a_list_without_photos_is_made_once(program, capsys):
    Path("jobs.csv").write_text("prompt,frame\nA fox,\nA fox,true\n")
    for count in (2, 0):
        assert program.main("batch", "jobs.csv", "--start", "text", "--seed", "1") == 0, capsys.readouterr()
        assert program.made[-1].count == count
    made = sorted(path.suffix for path in Path("outputs").glob("text_*"))
    assert made == [".mp4", ".png"]
    report = json.loads(Path("outputs/batch_jobs.json").read_text())
    assert [job["photo"] for job in report["jobs"]] == [None, None]


def test_a_photo_has_the_name_that_it_had_without_a_start_for_the_others(program):
    photo = Path("photos/a.png")
    photo.parent.mkdir()
    Image.new("RGB", (96, 96)).save(photo)
    names = [plan(read_list(photo.parent).entries, shared, "tiny")[0].name for shared in ({}, {"start": "text"})]
    assert names[0] == names[1]


class PictureRun:
    """What `JobManager` calls: a picture where one is asked for."""

    def __init__(self, folder):
        self.folder, self.jobs = folder, []

    def __call__(self, job):
        self.jobs.append(job)
        yield StepDone(0, 1, 1, 1, None)
        path = self.folder / f"{job.id}.png"
        Image.new("RGB", (64, 64), "red").save(path)
        yield Finished(path, 1)


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    run = PictureRun(tmp_path)
    manager = JobManager(run)
    yield run, manager, ClientJobs(manager)
    assert manager.close(60)


def test_the_button_puts_a_new_picture_into_the_photos_field(page):
    run, manager, client_jobs = page
    handlers, ann = NoPhotoHandlers(client_jobs), new_client_id()
    seeds = set()
    for _ in range(2):
        made = handlers.make(ann, **FULL | {"start": "colour"})
        job_id = made["waited_for"]
        assert (made["message"], made["timer"].active) == ("", True)
        wait_for(lambda job_id=job_id: manager.snapshot(job_id).ended)
        seen = handlers.look(ann, job_id)
        assert uploaded_file(seen["image"]["path"])
        assert (seen["waited_for"], seen["timer"].active, seen["message"]) == ("", False, "")
        request = run.jobs[-1].request
        assert (request.frame, request.start, run.jobs[-1].inputs.pictures) == (True, "photo", {})
        seeds.add(request.seed)
    assert len(seeds) == 2, "made again it is another one"
    bob = new_client_id()
    assert "image" not in handlers.look(bob, job_id), "it is nobody else's"
    assert handlers.make(ann, **FULL | {"steps": 0})["message"]


def test_the_page_shows_no_video_for_a_picture(page):
    _, manager, client_jobs = page
    ann = new_client_id()
    job_id = NoPhotoHandlers(client_jobs).make(ann, **GOOD)["waited_for"]
    wait_for(lambda: manager.snapshot(job_id).ended)
    shown = PageHandlers(client_jobs).tick(ann, "")
    assert not shown["video"]["visible"]
    assert "frames" not in shown["details"]
    assert "seed" in shown["details"]


def test_start_without_a_photo(page):
    run, _, client_jobs = page
    handlers, ann = PageHandlers(client_jobs), new_client_id()
    assert "Add a photo first" in handlers.start(ann, "", None, **GOOD)["message"]
    assert handlers.start(ann, "", None, **FULL | {"start": "text"})["message"] == ""
    wait_for(lambda: run.jobs)
    assert (run.jobs[0].request.start, run.jobs[0].request.frame_seed) == ("text", 3)
    assert run.jobs[0].inputs.pictures == {}


def test_scripts(page):
    run, manager, _ = page
    api = ApiHandlers(manager)
    assert all(answer["is_valid"] for answer in api.check_generate(None, **FULL | {"start": "text"}))
    assert not api.check_generate(None, **GOOD)[0]["is_valid"]
    assert all(answer["is_valid"] for answer in api.check_frame(None, **GOOD, **FRAME_SETTINGS))
    faults = api.check_frame(None, **GOOD, **FRAME_SETTINGS | {"frame_time": 0})
    assert len(faults) == 2 + len(GOOD) + len(FRAME_SETTINGS)
    assert not faults[-2]["is_valid"]
    job_id = api.frame(None, **GOOD, **FRAME_SETTINGS | {"frame_slots": ["2x"]})
    wait_for(lambda: manager.snapshot(job_id).ended)
    assert run.jobs[0].request.frame_slots == ("2x",)
    state, file = api.snapshot(job_id)
    assert (state["total_frames"], Path(file["path"]).suffix) == (1, ".png")


def test_a_restored_blank_start_leaves_no_photo(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    folder = tmp_path / ("0" * 64)
    folder.mkdir()
    request = GenerationRequest(start="colour", start_colour="#102030", frame_seed=4)
    recipe_file(str(folder / "a.png"), request)
    shown = RecipeHandlers().restore({"path": str(folder / "a.png")})
    assert shown["image"] is None
    assert "add it" not in shown["told"]
    assert (shown["start"], shown["start_colour"], shown["frame_seed"]) == ("colour", "#102030", "4")
    assert control_value("frame_seed", None) == ""


def test_a_made_start_is_the_first_preview():
    job = JobSnapshot(id="a", variant="original", seed=1, total_frames=37, sections=1, steps=1, created=0.0)
    assert changes(StartMade(Path("a.png"), b"jpeg"), job, Pace(), None) == {"preview": b"jpeg", "preview_version": 1}


def test_a_photo_comes_before_another_start():
    photo = photo_of(Image.new("RGB", (96, 96)))
    assert JobInputs.of(GenerationRequest(start="colour"), {"start": photo}).request.start == "photo"
