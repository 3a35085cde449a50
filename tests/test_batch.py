"""The command with a fake program; photos and lists are real files."""

import json
import signal
from types import SimpleNamespace

import pytest
from PIL import Image

from diffusers_helper.commands import cli
from diffusers_helper.framepack.errors import ModelFilesError, OutOfMemoryError
from diffusers_helper.framepack.events import Finished, StepDone, VideoGrown
from diffusers_helper.framepack.request import GenerationRequest


class FakeProgram:
    """Makes a file of a few bytes for each job; ``faults`` are raised, by the job's prompt, after the first section."""

    defaults = GenerationRequest(resolution=128, steps=4, seconds=1)
    note = ""

    def __init__(self, options, variant):
        self.outputs, self.made, self.released = options.outputs, [], 0
        self.source = SimpleNamespace(title="tiny", check=self.check)
        self.checked = [variant]
        type(self).last = self

    def check(self, variants, *, offline):
        self.checked += variants
        if self.missing:
            raise ModelFilesError("config.json is missing.")

    def prepare(self):
        pass

    def release(self):
        self.released += 1

    def fault(self):
        return "The GPU does not answer any more." if self.lost and self.made else ""

    def generate(self, request, photo, name, *, check, say):
        self.made.append((request, photo.name))
        yield StepDone(0, 1, 1, 4, None)
        yield VideoGrown(self.outputs / f"{name}_partial_01.mp4", 33, 1)
        if request.prompt in self.faults:
            raise self.faults[request.prompt]
        if request.prompt == "press":
            signal.raise_signal(signal.SIGINT)
            yield StepDone(0, 1, 2, 4, None)
        (self.outputs / f"{name}.mp4").write_bytes(b"video")
        yield Finished(self.outputs / f"{name}.mp4", 37)


@pytest.fixture(autouse=True)
def program(monkeypatch, tmp_path):
    fake = type("Fake", (FakeProgram,), {"faults": {}, "missing": False, "lost": False})
    monkeypatch.setattr("diffusers_helper.service.program.Program", fake)
    monkeypatch.setattr("diffusers_helper.service.options.set_environment", lambda _, *, offline: None)
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (128, 128), name[0].replace("a", "red").replace("b", "green").replace("c", "blue")).save(
            tmp_path / name
        )
    return fake


@pytest.fixture
def batch(tmp_path, capfd):
    def run(*arguments, source=tmp_path):
        code = cli.main(["batch", str(source), "--outputs", str(tmp_path / "outputs"), *arguments])
        shown = capfd.readouterr()
        report = tmp_path / "outputs" / f"batch_{source.stem}.json"
        return code, shown, json.loads(report.read_text()) if report.exists() else None

    return run


def jobs_csv(tmp_path, *rows):
    (tmp_path / "jobs.csv").write_text("\n".join(["photo,prompt", *rows]))
    return tmp_path / "jobs.csv"


def states(report):
    return [job["state"] for job in report["jobs"]]


def test_every_photo_of_a_folder_becomes_a_video_once(batch, program, tmp_path):
    code, shown, report = batch("--prompt", "Wave", "--seconds", "2", "--teacache")
    assert code == 0
    assert [(request.prompt, request.seconds, request.teacache, name) for request, name in program.last.made] == [
        ("Wave", 2, True, name) for name in ("a.png", "b.png", "c.png")
    ]
    assert shown.out.splitlines()[-1] == "3 made"
    videos = sorted((tmp_path / "outputs").glob("*.mp4"))
    assert [job["video"] for job in report["jobs"]] == list(map(str, videos))

    code, shown, report = batch("--prompt", "Wave", "--seconds", "2", "--teacache")
    assert (code, program.last.made, states(report)) == (0, [], ["there"] * 3)
    videos[1].unlink()
    Image.new("RGB", (128, 128)).save(tmp_path / "d.png")
    code, shown, report = batch("--prompt", "Wave", "--seconds", "2", "--teacache")
    assert states(report) == ["there", "made", "there", "made"]
    assert len(program.last.made) == 2


def test_what_fails_is_told_and_the_others_are_made(batch, program, tmp_path):
    program.faults = {"big": OutOfMemoryError("The GPU ran out of memory."), "bug": ZeroDivisionError("x")}
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = ("a.png,big", "b.png,bug", "broken.png,", "gone.png,", "c.png,fine")
    code, shown, report = batch(source=jobs_csv(tmp_path, *rows))
    assert code == 1
    assert states(report) == ["failed", "failed", "failed", "failed", "made"]
    assert program.last.released == 3  # also for the photo, which is harmless
    told = [job["error"] for job in report["jobs"]]
    for text, words in zip(
        told, ("ran out of memory.", "ZeroDivisionError (error", "not an image", "cannot be read"), strict=False
    ):
        assert words in text
        assert text in shown.out
    assert "What was finished is kept" in shown.err
    assert report["counts"] == {"failed": 4, "made": 1}
    assert shown.out.splitlines()[-1] == "1 made, 4 FAILED"


def test_a_dry_run_makes_nothing_and_finds_what_is_wrong(batch, program, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    code, shown, report = batch("--dry-run")
    assert (code, program.last.made, report) == (1, [], None)
    assert not (tmp_path / "outputs").exists()
    assert shown.out.splitlines()[-1] == "1 FAILED, 3 not made yet"
    assert 'broken.png" is not an image' in shown.out
    (tmp_path / "broken.png").unlink()
    assert batch("--dry-run")[0] == 0


def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(batch, program, tmp_path):
    source = jobs_csv(tmp_path, "a.png,one", "b.png,press", "c.png,three")
    code, shown, report = batch(source=source)
    assert (code, states(report)) == (130, ["made", "stopped", "waiting"])
    assert "press Ctrl+C again" in shown.err
    source.write_text(source.read_text().replace("press", "two"))
    code, shown, report = batch(source=source)
    assert (code, states(report)) == (0, ["there", "made", "made"])


def test_a_lost_gpu_ends_the_batch_where_it_is(batch, program, tmp_path):
    program.lost, program.faults = True, {"x": RuntimeError("CUDA error")}
    code, shown, report = batch("--prompt", "x")
    assert (code, states(report)) == (1, ["failed", "waiting", "waiting"])
    assert "does not answer any more. Start the batch again" in shown.err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--steps", "0"], 2, "steps"),
        (["--variant", "f1", "--seed", "x"], 2, "seed"),
        (["--prompt", "p" * 20000], 2, "prompt"),
    ],
)
def test_wrong_settings_for_all_exit_2_before_anything_is_loaded(batch, program, arguments, code, told):
    ended, shown, report = batch(*arguments)
    assert (ended, report) == (code, None)
    assert told in shown.err
    assert not hasattr(program, "last")


def test_a_wrong_list_exits_2_and_missing_models_3(batch, program, tmp_path):
    assert batch(source=tmp_path / "none.csv")[0] == 2
    program.missing = True
    (tmp_path / "jobs.jsonl").write_text('{"photo": "a.png", "variant": "f1"}')
    assert batch(source=tmp_path / "jobs.jsonl")[0] == 3
    assert program.last.checked == ["original", "f1"]


def test_the_report_can_go_elsewhere_and_is_there_after_every_job(batch, program, tmp_path, monkeypatch):
    seen, report = [], tmp_path / "report.json"
    before = program.generate

    def look(self, *args, **options):
        seen.append(states(json.loads(report.read_text())) if report.exists() else None)
        return before(self, *args, **options)

    monkeypatch.setattr(program, "generate", look)
    assert batch("--report", str(report))[0] == 0
    assert seen == [None, ["made", "waiting", "waiting"], ["made", "made", "waiting"]]
