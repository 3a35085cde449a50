"""The command with a fake program; photos and lists are real files."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
from PIL import Image

from diffusers_helper.commands import cli
from diffusers_helper.core.errors import ModelFilesError, OutOfMemoryError
from diffusers_helper.core.events import Finished, StepDone, VideoGrown
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.speeds import Estimate


class FakeProgram:
    """Makes a file of a few bytes for each job; `faults` are raised, by the job's prompt, after the first section."""

    defaults = GenerationRequest(resolution=128, steps=4, seconds=1)
    note = ""

    def __init__(self, options, variant):
        self.outputs, self.made, self.released = options.folders.outputs, [], 0
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

    def identified(self, request):
        return request

    @property
    def times(self):
        return self

    def estimate(self, request, pictures):
        return self.estimates.get(request.prompt)

    def fault(self):
        return "The GPU does not answer any more." if self.lost and self.made else ""

    def generate(self, inputs, name, *, check, report):
        self.made.append((inputs.request, inputs.start.name))
        yield StepDone(0, 1, 1, 4, None)
        yield VideoGrown(self.outputs / f"{name}_partial_01.mp4", 33, 1)
        if inputs.request.prompt in self.faults:
            raise self.faults[inputs.request.prompt]
        if inputs.request.prompt == "press":
            signal.raise_signal(signal.SIGINT)
            yield StepDone(0, 1, 2, 4, None)
        (self.outputs / f"{name}.mp4").parent.mkdir(parents=True, exist_ok=True)
        (self.outputs / f"{name}.mp4").write_bytes(b"video")
        yield Finished(self.outputs / f"{name}.mp4", 37)


@pytest.fixture(autouse=True)
def program(kept_environment, tmp_path):
    fake = type("Fake", (FakeProgram,), {"faults": {}, "missing": False, "lost": False, "estimates": {}})
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (128, 128), name[0].replace("a", "red").replace("b", "green").replace("c", "blue")).save(
            tmp_path / name
        )
    return fake


@pytest.fixture
def batch(program, tmp_path, capfdbinary):
    def run(*arguments, source=tmp_path):
        code = cli.main(["batch", str(source), "--outputs", str(tmp_path / "outputs"), *arguments], program)
        shown = SimpleNamespace(
            **{name: os.fsdecode(said) for name, said in capfdbinary.readouterr()._asdict().items()}
        )
        report = tmp_path / "outputs" / f"batch_{source.stem}.json"
        return code, shown, json.loads(report.read_text()) if os.path.exists(report) else None

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


def test_a_dry_run_tells_of_pictures_and_times_that_do_not_fit(batch, tmp_path):
    lines = ['{"frame": true, "end_photo": "a.png"}', '{"photo": "a.png", "key_seconds": [1.2], "seconds": 2.4}']
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    code, shown, _ = batch("--dry-run", source=tmp_path / "jobs.jsonl")
    assert code == 1
    assert "A second control picture needs a first one" in shown.out
    assert "There is a time for a key picture, but no picture" in shown.out


@pytest.mark.parametrize(
    ("estimates", "told"),
    [
        ({}, ""),
        ({"a": Estimate(50, False), "b": Estimate(400, False)}, "will take about 8 min on this computer."),
        (
            {"b": Estimate(400, True)},
            "take very roughly 7 min on this computer (1 of 2; of the others nobody knows).",
        ),
    ],
)
def test_a_dry_run_tells_how_long_it_will_take(batch, program, tmp_path, estimates, told):
    program.estimates = estimates
    (tmp_path / "jobs.csv").write_text("photo,prompt\na.png,a\nb.png,b\nnone.png,c\n")
    shown = batch("--dry-run", source=tmp_path / "jobs.csv")[1].err
    assert told in shown
    assert ("will take" in shown) == bool(told)


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


def test_the_report_can_go_elsewhere_and_is_there_after_every_job(batch, program, tmp_path):
    seen, report = [], tmp_path / "report.json"
    before = program.generate

    def inspect(self, *args, **options):
        seen.append(states(json.loads(report.read_text())) if report.exists() else None)
        return before(self, *args, **options)

    program.generate = inspect
    assert batch("--report", str(report))[0] == 0
    assert seen == [None, ["made", "waiting", "waiting"], ["made", "made", "waiting"]]


def test_a_name_that_is_no_unicode_stops_nothing(batch, program, tmp_path):
    photo = tmp_path / "caf\udce9.png"
    Image.new("RGB", (128, 128)).save(photo)
    (tmp_path / "caf\udce9.txt").write_text("Wave")
    folder = tmp_path / "b\udce9"
    folder.mkdir()
    Image.new("RGB", (128, 128), "white").save(folder / "d.png")
    code, shown, report = batch("--dry-run", "--recursive")
    assert (code, shown.out.splitlines()[-1]) == (0, "5 not made yet")
    code, shown, report = batch("--recursive")
    assert (code, states(report)) == (0, ["made"] * 5)
    assert report["jobs"][3]["photo"] == str(photo)
    assert "caf\udce9.png" in shown.out, "as the bytes that it has"
    assert report["jobs"][3]["request"]["prompt"] == "Wave"
    assert batch(source=folder)[0] == 0
    assert batch("--recursive")[2]["counts"] == {"there": 5}


def test_the_folders_below_are_kept_in_the_results(batch, program, tmp_path):
    outputs = tmp_path / "outputs"
    for name in ("Rügen 2026/deep/d", "jobs/e", "user_ann/f"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.new("RGB", (128, 128)).save(tmp_path / "photos" / name, "JPEG")
    code, shown, report = batch(source=tmp_path / "photos")
    assert (code, report) == (2, None)
    assert "add --recursive" in shown.err
    code, _shown, report = batch("--recursive", source=tmp_path / "photos")
    assert (code, states(report)) == (0, ["made"] * 3)
    assert [job["where"] for job in report["jobs"]] == ["Rügen 2026/deep/d", "jobs/e", "user_ann/f"]
    made = sorted(path.parent.relative_to(outputs).as_posix() for path in outputs.rglob("*.mp4"))
    assert made == ["Rügen-2026/deep", "jobs_", "user_ann_"]
    assert batch("--recursive", source=tmp_path / "photos")[2]["counts"] == {"there": 3}


def test_what_was_passed_over_is_told_and_in_the_report(batch, program, tmp_path):
    (tmp_path / "a.txt").write_text("Wave")
    (tmp_path / ("x" * 255)).write_bytes((tmp_path / "a.png").read_bytes())
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    passed_over = {"hidden files": 3, "other files": 1, "folders": 1}
    code, shown, report = batch("--dry-run")
    assert (code, report) == (0, None)
    assert "Passed over: 1 folders, 3 hidden files, 1 other files (--recursive" in shown.err
    code, shown, report = batch()
    assert (code, states(report), report["passed_over"]) == (0, ["made"] * 4, passed_over)


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (b"\xef\xbb\xbfPan left\r\n", "Pan left"),
        ("\ufeff向左平移".encode("utf-16-le"), "向左平移"),
        ("向左平移".encode("big5"), None),
        ("Café à gauche".encode("cp1252"), None),
    ],
    ids=["utf-8 with a mark", "utf-16", "big5", "cp1252"],
)
def test_words_beside_a_photo_are_read_rightly_or_the_photo_fails_with_their_file(
    batch, program, tmp_path, data, prompt
):
    (tmp_path / "a.txt").write_bytes(data)
    code, _shown, report = batch()
    first = report["jobs"][0]
    if first["state"] == "failed":
        assert prompt is None
        assert f"encoding {tmp_path}/a.txt is written" in first["error"]
        assert code == 1
        encoding = "big5" if data[0] > 0x80 else "cp1252"
        code, _, report = batch("--encoding", encoding)
        first, prompt = report["jobs"][0], data.decode(encoding)
    assert (code, first["request"]["prompt"]) == (0, prompt or data.decode("big5"))
    assert states(report)[1:] != ["failed", "failed"]


def test_a_list_with_bad_rows_makes_the_good_ones(batch, program, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "~tilde.png").write_bytes((tmp_path / "a.png").read_bytes())
    rows = ["~nosuchuser/x.png,a", 'a.png,"open', "pipe.png,x", "/dev/zero,x", f"{'x' * 300}.png,x", f"{tmp_path},x"]
    rows += ["a\0.png,x", "a.png", "~tilde.png,good", " b.png,good"]
    code, shown, report = batch(source=jobs_csv(tmp_path, *rows))
    assert (code, states(report)) == (1, ["failed"] * 8 + ["made"] * 2)
    told = [job["error"] for job in report["jobs"]]
    words = ("cannot be read: No such", "line 3: it has a quote", "it is a pipe", "device", "No file can be called")
    words += ("it is a folder", "line 8: photo has a character", "line 9: it has not as many cells")
    for sentence, word in zip(told, words, strict=False):
        assert word in sentence
        assert sentence in shown.out
    assert batch("--dry-run", source=tmp_path / "jobs.csv")[1].out.splitlines()[-1] == "2 was there already, 8 FAILED"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--report", "none/report.json"], "could not be written"),
        (["--report", "x" * 300], "Were two arguments swapped"),
        (["--encoding", "klingon"], "no such encoding"),
        (["--name-template", "{photo}"], "leave --name-template out"),
    ],
)
def test_what_cannot_be_is_told_before_the_work(batch, program, arguments, told):
    code, shown, _report = batch(*arguments)
    assert code in (1, 2)
    assert told in shown.err
    assert not getattr(program, "last", None) or not program.last.made


def test_a_folder_with_a_long_name_has_a_report(batch, program, tmp_path):
    folder = tmp_path / ("長" * 85)
    folder.mkdir()
    Image.new("RGB", (128, 128)).save(folder / "a.png")
    assert batch(source=folder)[0] == 0
    assert len(list((tmp_path / "outputs").glob("batch_長*.json"))) == 1


def test_a_line_break_in_a_name_breaks_no_table(batch, program, tmp_path):
    Image.new("RGB", (128, 128)).save(tmp_path / "d\n\x1b[31m.png")
    code, shown, _report = batch()
    assert code == 0
    assert "d\\n\\x1b[31m.png" in shown.out
    assert len(shown.out.splitlines()) == 6
