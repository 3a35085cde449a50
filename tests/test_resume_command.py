"""The command `resume` with a fake program: everything but the models."""

import signal
from types import SimpleNamespace

import pytest
from PIL import Image

from diffusers_helper.commands import cli
from diffusers_helper.core.errors import CancelledError, OutOfMemoryError
from diffusers_helper.core.events import Finished, StepDone
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.media.photo import Photo

PHOTO = Photo(Image.new("RGB", (80, 64)), "grey.png", ())


class FakeProgram:
    """Goes on with any job and makes a file of a few bytes; `fault` comes instead."""

    note = "The tiny model is at work."
    changed = ""
    fault: BaseException | None = None
    signals: tuple[int, ...] = ()

    def __init__(self, options, variant):
        self.outputs = options.folders.outputs
        self.store = JobStore(self.outputs / "jobs")
        self.made.append(SimpleNamespace(models=options.models, variant=variant))

    def env_warning(self, job_id):
        return self.changed

    def prepare(self):
        pass

    def generate(self, inputs, name, *, check, report, allow_env_change):
        with self.store.running(name.rpartition("/")[2], inputs):
            yield StepDone(1, 3, 1, 1, None)
            for number in self.signals:
                signal.raise_signal(number)
            if self.signals:
                yield StepDone(1, 3, 1, 1, None)
            if self.fault:
                raise self.fault
            video = self.outputs / f"{name}.mp4"
            video.parent.mkdir(exist_ok=True)
            video.write_bytes(b"whole video")
            self.made[-1].allow_env_change = allow_env_change
            yield Finished(video, 109)


@pytest.fixture
def program(kept_environment):
    return type("Fake", (FakeProgram,), {"made": []})


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


def leave(outputs, name, *, sections=1, **fields):
    store = JobStore(outputs / "jobs")
    request = GenerationRequest(
        seconds=3.6, prompt=f"Film {name}\nwith a lion.", variant=fields.pop("variant", "original")
    )
    store.add(JobRecord(name, request, **{"state": "running", **fields}), {"start": PHOTO})
    for number in range(sections):
        (store.path(name) / f"section_{number:03d}.safetensors").touch()
    store.locks.release(name)


def resume(program, outputs, *argv):
    return cli.main(["resume", *argv, "--outputs", str(outputs)], program)


def test_the_only_one_needs_no_name(program, outputs, capsys):
    leave(outputs, "a", output="user_ann/a", models="/my/models", variant="f1")
    assert resume(program, outputs) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{outputs}/user_ann/a.mp4\n"
    assert "The tiny model is at work." in shown.err
    assert program.made == [SimpleNamespace(models="/my/models", variant="f1", allow_env_change=True)]
    assert JobStore(outputs / "jobs").records() == []


def test_the_list_says_which_there_are(program, outputs, capsys):
    leave(outputs, "a")
    leave(outputs, "b", state="failed", sections=2, variant="f1")
    leave(outputs, "c", state="done")
    assert resume(program, outputs, "--list") == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["a", "interrupted", "1", "of", "3", "original", "Film", "a", "with", "a", "lion."]
    assert second.split()[:6] == ["b", "failed", "2", "of", "3", "f1"]
    assert program.made == []


def test_an_empty_list_says_so(program, outputs, capsys):
    assert resume(program, outputs, "--list") == 0
    assert capsys.readouterr().out == f"There is no unfinished video in {outputs}.\n"


def test_what_was_not_kept_cannot_be_made_longer(program, outputs, capsys):
    assert resume_extend(program, outputs, "lion_Pan-left_7", "--seconds", "2.4") != 0
    assert "no latents of lion_Pan-left_7: only a video made with --keep latents" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [([], "There are several"), (["none"], "no unfinished video none"), (["../a"], "no unfinished video")],
)
def test_what_is_not_clear_is_asked(program, outputs, argv, says, capsys):
    leave(outputs, "a")
    leave(outputs, "b")
    assert resume(program, outputs, *argv) in (1, 2)
    assert says in capsys.readouterr().err
    assert program.made == []


def test_nothing_to_do_is_said(program, outputs, capsys):
    assert resume(program, outputs) == 2
    assert "no unfinished video" in capsys.readouterr().err
    assert resume(program, outputs, "--all") == 0


def test_a_job_of_a_living_process_is_not_touched(program, outputs, capsys):
    leave(outputs, "a")
    other = JobStore(outputs / "jobs")
    assert other.locks.hold("a")
    assert resume(program, outputs, "a") == 2
    assert "another process" in capsys.readouterr().err


def test_another_environment_needs_force(program, outputs, capsys):
    leave(outputs, "a")
    program.changed = "It was begun with torch 2.11.0; here it is 2.13.0."
    assert resume(program, outputs) == 2
    assert "torch 2.11.0" in (said := capsys.readouterr().err)
    assert "--force" in said
    assert resume(program, outputs, "--force") == 0


def test_all_go_on_though_one_fails(program, outputs, capsys):
    for name in "abc":
        leave(outputs, name)
    (outputs / "jobs/b/photo.png").write_bytes(b"")
    assert resume(program, outputs, "--all") == 1
    assert capsys.readouterr().out == f"{outputs}/a.mp4\n{outputs}/c.mp4\n"
    assert JobStore(outputs / "jobs").records() == []
    assert [name for name, _ in JobStore(outputs / "jobs").quarantine.listed()] == ["b"]
    assert resume(program, outputs, "--all") == 0
    assert resume(program, outputs, "b") == 1


def test_ctrl_c_ends_all_of_them(program, outputs, capsys):
    for name in "ab":
        leave(outputs, name)
    program.fault = CancelledError("Stopped.")
    assert resume(program, outputs, "--all") == 130
    assert len(program.made) == 1
    assert f"Go on with: ./framepack resume a --outputs {outputs}" in capsys.readouterr().err


STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def handlers():
    """Signals as they are in a program that was started from a terminal; put back afterwards."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in usual.items():
        signal.signal(number, handler)
    yield usual
    assert {number: signal.getsignal(number) for number in STOPPING} == usual
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "signals", [STOPPING[:1], STOPPING[1:2], STOPPING[2:], [signal.SIGHUP, signal.SIGHUP, signal.SIGTERM]]
)
def test_a_signal_while_sampling_says_how_to_go_on(program, outputs, handlers, signals, capfd):
    leave(outputs, "a")
    program.signals = signals
    assert resume(program, outputs) == 130
    shown = capfd.readouterr().err
    assert "Stopping after this step" in shown
    assert f"Go on with: ./framepack resume a --outputs {outputs}" in shown
    assert JobStore(outputs / "jobs").record("a").state == "stopped"


def test_a_second_ctrl_c_is_at_once(program, outputs, handlers, capfd):
    leave(outputs, "a")
    program.signals = (signal.SIGHUP, signal.SIGINT)
    assert resume(program, outputs) == 130
    assert "Go on with" in capfd.readouterr().err


def test_what_shall_outlive_its_terminal_does(program, outputs, handlers):
    leave(outputs, "a")
    program.signals = (signal.SIGHUP,)
    handlers[signal.SIGHUP] = signal.SIG_IGN  # nohup
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert resume(program, outputs) == 0


def test_a_failure_keeps_what_is_there(program, outputs, capsys):
    leave(outputs, "a")
    program.fault = OutOfMemoryError("Too little memory.")
    assert resume(program, outputs) == 1
    assert "Too little memory." in capsys.readouterr().err
    assert JobStore(outputs / "jobs").record("a").state == "failed"


def test_the_video_goes_where_it_should(program, outputs, tmp_path, capsys):
    leave(outputs, "a")
    assert resume(program, outputs, "-o", str(tmp_path / "film.avi")) == 2
    assert resume(program, outputs, "-o", str(tmp_path / "film.mp4")) == 0
    assert capsys.readouterr().out == f"{tmp_path}/film.mp4\n"
    assert not (outputs / "a.mp4").exists()


def test_what_is_discarded_leaves_its_video(program, outputs):
    leave(outputs, "a")
    leave(outputs, "b")
    (outputs / "a_partial_01.mp4").touch()
    assert resume(program, outputs, "a", "--discard") == 0
    assert [record.id for record in JobStore(outputs / "jobs").records()] == ["b"]
    assert (outputs / "a_partial_01.mp4").exists()


def test_a_finished_f1_video_is_made_longer(program, outputs, capsys):
    leave(outputs, "a", sections=3, state="done", variant="f1")
    (outputs / "a.mp4").write_bytes(b"short")
    made = []

    def generate(self, inputs, name, **_):
        made.append((inputs.request.sections, name))
        yield Finished(self.outputs / "b.mp4", 181)

    program.generate = generate
    assert resume_extend(program, outputs, "a", "--seconds", "2.4") == 0
    [(sections, name)] = made
    assert sections == 5
    store = JobStore(outputs / "jobs")
    assert (store.sections(name), store.record("a").state) == (3, "done")
    assert store.record(name).output == "a_2"
    assert (outputs / "a_2_partial_03.mp4").read_bytes() == b"short"


def test_the_name_of_its_files_names_a_job_too(program, outputs, capsys):
    leave(outputs, "a", output="user_ann/lion_roars_7")
    leave(outputs, "b", output="lion_roars_7_2")
    assert resume(program, outputs, "lion_roars_7") == 0
    assert capsys.readouterr().out == f"{outputs}/user_ann/a.mp4\n"
    assert resume(program, outputs, "lion_roars_7_2", "--discard") == 0
    assert JobStore(outputs / "jobs").records() == []


@pytest.mark.parametrize("command", [["--discard"], []])
def test_a_name_that_two_users_videos_have_is_asked(program, outputs, command, capsys):
    leave(outputs, "a", output="user_ann/lion_1", variant="f1")
    leave(outputs, "b", output="user_bob/lion_1", variant="f1")
    assert resume(program, outputs, "lion_1", *command) == 2
    told = capsys.readouterr().err
    assert all(name in told for name in ("user_ann/lion_1", "user_bob/lion_1"))
    assert len(JobStore(outputs / "jobs").records()) == 2
    assert resume(program, outputs, "user_bob/lion_1", *command) == 0
    assert [record.id for record in JobStore(outputs / "jobs").records()] == ["a"]


@pytest.mark.parametrize(
    ("fields", "seconds", "says"),
    [
        ({"state": "done"}, "5", "ending was sampled first"),
        ({"state": "failed", "variant": "f1"}, "5", "not done"),
        ({"state": "done", "variant": "f1"}, "119", "seconds"),
    ],
)
def test_what_cannot_be_made_longer_says_why(program, outputs, fields, seconds, says, capsys):
    leave(outputs, "a", **fields)
    assert resume_extend(program, outputs, "a", "--seconds", seconds) == 2
    assert says in capsys.readouterr().err
    assert [record.id for record in JobStore(outputs / "jobs").records()] == ["a"]


def resume_extend(program, outputs, *argv):
    return cli.main(["extend", *argv, "--outputs", str(outputs)], program)
