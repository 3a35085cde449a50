"""A group of processes where something goes wrong around them; none of them does any work here."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from diffusers_helper.app.gpu_choices import STAGGER
from diffusers_helper.app.group import Group, GroupLostError
from diffusers_helper.app.group_messages import (
    CANCELLED,
    EVENT,
    FAILED,
    FOLLOW,
    FOLLOWER_FAILED,
    GENERATE,
    LEAD,
    WorkerConfig,
    message_of,
    received,
    send,
)
from diffusers_helper.app.group_processes import MeetingPlace
from diffusers_helper.app.group_worker import _Worker
from diffusers_helper.core.errors import (
    OUT_OF_MEMORY,
    OutOfMemoryError,
    OutputError,
    PartnerError,
    PartnerGoneError,
)
from diffusers_helper.core.events import Note, StageStarted, StepDone
from diffusers_helper.core.messages import Message
from diffusers_helper.core.planning import plan_video
from diffusers_helper.framepack.staggered import Sections
from diffusers_helper.generation.start import PictureMaker
from diffusers_helper.generation.team import ALONE, follow
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.service.signals import deaf_to_interrupts
from tests.fakes import wait_for
from tests.groups import inputs, running_of
from tests.tiny import TINY_FOLDER


@pytest.fixture
def pipe():
    ours, theirs = Pipe()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("told", "raised"),
    [
        (PartnerGoneError("Another GPU's process ended: connection reset"), GroupLostError),
        (PartnerError("GPU 1 of the group failed: no room"), PartnerError),
        (OutOfMemoryError("no room"), OutOfMemoryError),
    ],
)
def test_who_saw_another_one_end_tells_it_before_that_is_seen_from_here(pipe, told, raised):
    """The video then goes on with new processes; what one failed of ends it."""
    ours, theirs = pipe
    send(theirs, FAILED, told)
    with pytest.raises(PartnerError if raised is not OutOfMemoryError else raised) as caught:
        next(Group([])._messages(running_of(connections=[ours]), lambda: None))
    assert type(caught.value) is raised


class Two:
    """A group of two, played by a test: who leads, and who follows."""

    def __init__(self, stack):
        ends = [Pipe() for _ in range(2)]
        for end in (end for both in ends for end in both):
            stack.enter_context(end)
        (_, self.leader), (_, self.follower) = ends
        self.group = Group([])
        self.group._running = running_of(connections=[ours for ours, _ in ends])

    def begin(self):
        """Make a video up to its first event."""
        video = self.group._made(message_of(GENERATE), lambda: None)
        send(self.leader, LEAD, "its job")
        send(self.leader, EVENT, Note("begun"))
        assert next(video).text == "begun"
        assert received(self.follower.recv_bytes()) == (FOLLOW, "its job")
        return video


def test_a_failure_told_after_its_video_was_ended_does_not_fail_the_next_one():
    with ExitStack() as stack:
        two = Two(stack)
        video = two.begin()
        send(two.leader, CANCELLED)
        video.close()
        assert two.group._running is not None
        send(two.follower, FOLLOWER_FAILED, (1, OutOfMemoryError("no room")))
        with pytest.raises(GroupLostError):  # it is begun with other processes
            next(two.group._made(message_of(GENERATE), lambda: None))
        assert two.group._running is None


def test_a_failure_of_who_follows_fails_its_own_video():
    with ExitStack() as stack:
        two = Two(stack)
        video = two.begin()
        send(two.leader, CANCELLED)
        video.close()
        video = two.begin()
        send(two.follower, FOLLOWER_FAILED, (2, OutOfMemoryError("no room")))
        with pytest.raises(OutOfMemoryError):
            next(video)


def test_who_follows_tells_of_which_video_it_failed(pipe):
    ours, theirs = pipe
    components = SimpleNamespace(plan_memory=full)
    process = SimpleNamespace(components=components, _member=lambda _job: ALONE, _connection=theirs, _videos=3)
    _Worker._follow(process, SimpleNamespace(preserved_memory_gb=6))
    kind, (video, error) = received(ours.recv_bytes())
    assert (kind, video, str(error)) == (FOLLOWER_FAILED, 3, OUT_OF_MEMORY)


def test_what_was_told_in_time_is_heard_however_late_it_is_read(pipe):
    """Whoever reads was stopped for a while, or made a picture: the processes did not wait for that."""
    ours, theirs = pipe
    now = [100.0]
    group = Group([], patience=10, clock=lambda: now[0])
    for step, at in enumerate((100.0, 101.0), start=1):
        now[0] = at
        group._note(StepDone(0, 2, step, 25, torch.zeros(1)))
    messages = group._messages(running_of(connections=[ours]), lambda: None)
    send(theirs, EVENT, Note("one"))
    assert next(messages) == (EVENT, Note("one"))
    send(theirs, EVENT, Note("two"))
    now[0] = 500.0
    assert next(messages) == (EVENT, Note("two"))
    with pytest.raises(GroupLostError, match="does not answer"):
        next(messages)


def looked_at(group, now, running, *times):
    """Look at a group that says nothing at these times, one after the other; returns those at which it is not lost."""
    seen, times = [], iter(times)

    def check():
        seen.extend(now)
        now[0] = next(times)

    with pytest.raises(GroupLostError) as caught:
        next(group._messages(running, check))
    return seen[1:], str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is open")
@pytest.mark.parametrize("remove", [lambda file: file.unlink(), lambda file: shutil.rmtree(file.parent)])
def test_where_processes_meet_is_seen_to_be_removed(remove):
    """None of them would ever come to where another one waits."""
    now, place = [0.0], MeetingPlace()
    try:
        group = Group([], patience=10, clock=lambda: now[0])
        remove(place.path)
        place.path.parent.mkdir(exist_ok=True)
        place.path.touch()  # as the next process does, which looks for the others there
        seen, text = looked_at(group, now, running_of(place=place), 5.0, 9.0, 11.0)
        assert seen == [5.0, 9.0]
        assert text == f"{place.path}, by which the GPUs' processes find each other, was removed."
        assert not running_of(place=place).is_whole, "the next video begins with another one"
        group._note(StageStarted("sample", "Sampling"))
        now[0] = 30.0
        group._note(StepDone(0, 2, 1, 25, torch.zeros(1)))
        seen, _ = looked_at(group, now, running_of(place=place), 50.0, 96.0, 98.0)
        assert seen == [50.0, 96.0], "who samples has found the others"
    finally:
        place.close()


def test_the_first_step_tells_how_long_the_second_one_may_take():
    now = [100.0]
    group = Group([], patience=10, clock=lambda: now[0])
    group._note(StageStarted("sample", "Sampling"))
    now[0] = 120.0
    group._note(StepDone(0, 2, 1, 25, torch.zeros(1)))
    seen, text = looked_at(group, now, running_of(), 150.0, 189.0, 191.0)
    assert seen == [150.0, 189.0]
    assert "does not answer" in text


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows stops no processes")
def test_a_process_that_is_stopped_is_seen_whatever_it_was_at(pipe):
    now, (sentinel, _) = [0.0], pipe
    group = Group([], patience=10, clock=lambda: now[0])
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        running = running_of([SimpleNamespace(pid=process.pid, sentinel=sentinel)])
        try:
            process.send_signal(signal.SIGSTOP)
            wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, 60)
            seen, text = looked_at(group, now, running, 5.0, 9.0, 11.0)
            assert seen == [5.0, 9.0]
            assert "does not answer" in text
            process.send_signal(signal.SIGCONT)
            wait_for(lambda: not running.is_stopped, 60)
            now[0] = 0.0
            assert looked_at(group, now, running, 11.0, 700.0, 721.0)[0] == [11.0, 700.0], "who is slow may be"
        finally:
            process.kill()
    assert not running.is_stopped


def worker(rank, source):
    return WorkerConfig(rank, 2, "cpu", Path(), STAGGER, source, ComputeOptions(), None, Path(), (), True)


def test_none_stays_where_the_next_one_cannot_be_started(tmp_path):
    before = multiprocessing.active_children()
    group = Group([worker(0, LocalFolder(TINY_FOLDER)), worker(1, lambda: "not to be sent to a process")])
    with pytest.raises(Exception, match="pickle"):
        next(group.generate(inputs(), output=tmp_path / "video", check=lambda: None, checkpoint=tmp_path / "kept"))
    assert group._running is None
    assert multiprocessing.active_children() == before


class Lost(Group):
    """Its processes always end."""

    def _made(self, _message, _check):
        raise GroupLostError(Message("A GPU's process ended."))
        yield


def test_group_after_group_that_ends_is_told_with_what_to_do(tmp_path):
    events = Lost([]).generate(inputs(), output=tmp_path / "video", check=lambda: None, checkpoint=tmp_path / "kept")
    assert [next(events).text.key for _ in range(2)] == ["{reason} The work begins anew."] * 2
    with pytest.raises(PartnerError, match=r"ended\. That was so 3 times in a row\. The log says .*without --gpus"):
        next(events)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no masks of signals")
def test_ctrl_c_reaches_who_started_a_process_and_not_the_process():
    """A terminal sends it to both: the process would end, and seem to be lost."""
    program = "import signal, sys; sys.exit(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    with deaf_to_interrupts():
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 1
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def full(*_given):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_who_follows_tells_a_shortage_of_memory_as_who_leads():
    job = SimpleNamespace(preserved_memory_gb=6)
    with pytest.raises(OutOfMemoryError) as caught:
        next(follow(job, SimpleNamespace(plan_memory=full), ALONE))
    assert str(caught.value) == OUT_OF_MEMORY


@pytest.mark.parametrize("pictures", [True, False])
def test_so_does_who_makes_a_picture(pictures):
    """What it raises is all that the page's process hears."""
    asked = JobInputs(inputs().request.model_copy(update={"frame": True}), inputs().pictures if pictures else {})
    with pytest.raises(OutOfMemoryError) as caught:
        list(PictureMaker(SimpleNamespace(plan_memory=full), lambda: None).make(asked))
    assert str(caught.value) == OUT_OF_MEMORY


def test_partners_are_told_of_a_shortage_in_words_for_users():
    told = []
    model = SimpleNamespace(variant="f1", rest=lambda: None, load=full)
    partners = SimpleNamespace(leave=told.append, samples=full)
    plan = plan_video("f1", 2)
    history = SimpleNamespace(shape=(1, 16, 1, 2, 2))
    sections = Sections(plan, 4, None, history, torch.Generator(), partners)
    with pytest.raises(torch.OutOfMemoryError):
        list(sections.sample(0, model))
    assert told == [OUT_OF_MEMORY]


PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
from tests.groups import inputs
from tests.test_group_faults import Group, LocalFolder, TINY_FOLDER, worker

if __name__ == "__main__":
    group, here = Group([worker(0, LocalFolder(TINY_FOLDER))]), Path(sys.argv[1])  # it waits for a second one
    started = threading.Event()

    def make():
        for _ in group.generate(inputs(), output=here, check=look, checkpoint=here / "kept"):
            pass

    def look():
        started.set()
        threading.Event().wait()  # what would start it anew

    threading.Thread(target=make, daemon=True).start()
    started.wait()
    [process], place = group._running.processes, group._running.place.path
    print(process.pid, place, flush=True)
    if sys.argv[2] == "killed":
        while not place.stat().st_size:  # until the process looks for the other one there
            threading.Event().wait(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    os.kill(process.pid, signal.SIGSTOP)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows stops no process")
@pytest.mark.parametrize("end", ["in order", "killed"])
def test_neither_processes_nor_where_they_met_are_left_of_a_program_that_ends(tmp_path, end):
    """Not of one that was stopped, either, nor of a program that is killed."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "video"), end]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, check=False, text=True)
    assert done.returncode == (0 if end == "in order" else -signal.SIGKILL)
    process, _, place = done.stdout.strip().partition(" ")
    wait_for(lambda: not psutil.pid_exists(int(process)), 600)
    assert Path(place).is_relative_to(tmp_path)
    assert not Path(place).parent.exists()


def test_no_room_for_where_processes_meet_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    group = Group([worker(0, LocalFolder(TINY_FOLDER))])
    with pytest.raises(OutputError, match="gone"):
        next(group.generate(inputs(), output=tmp_path / "video", check=lambda: None, checkpoint=tmp_path / "kept"))
