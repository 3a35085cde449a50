"""A group of processes where something goes wrong around them; none of them does any work here."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffusers_helper.app.gpu_choices import STAGGER
from diffusers_helper.app.group import Group, GroupLostError, _Running
from diffusers_helper.app.group_messages import EVENT, FAILED, WorkerConfig, send
from diffusers_helper.core.errors import (
    OUT_OF_MEMORY,
    OutOfMemoryError,
    OutputError,
    PartnerError,
    PartnerGoneError,
)
from diffusers_helper.core.events import Note, StepDone
from diffusers_helper.core.messages import Message
from diffusers_helper.core.planning import plan_video
from diffusers_helper.framepack.staggered import Sections
from diffusers_helper.generation.team import ALONE, follow
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.service.signals import deaf_to_interrupts
from tests.groups import inputs
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
        next(Group([])._messages(_Running([], [ours], None), lambda: None))
    assert type(caught.value) is raised


def test_what_was_told_in_time_is_heard_however_late_it_is_read(pipe):
    """Whoever reads was stopped for a while, or made a picture: the processes did not wait for that."""
    ours, theirs = pipe
    now = [100.0]
    group = Group([], patience=10, clock=lambda: now[0])
    for step, at in enumerate((100.0, 101.0), start=1):
        now[0] = at
        group._note(StepDone(0, 2, step, 25, torch.zeros(1)))
    messages = group._messages(_Running([], [ours], None), lambda: None)
    send(theirs, EVENT, Note("one"))
    assert next(messages) == (EVENT, Note("one"))
    send(theirs, EVENT, Note("two"))
    now[0] = 500.0
    assert next(messages) == (EVENT, Note("two"))
    with pytest.raises(GroupLostError, match="does not answer"):
        next(messages)


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

    def _video(self, _call, _check):
        raise GroupLostError(Message("A GPU's process ended."))
        yield


def test_group_after_group_that_ends_is_told_with_what_to_do(tmp_path):
    events = Lost([]).generate(inputs(), output=tmp_path / "video", check=lambda: None, checkpoint=tmp_path / "kept")
    assert [next(events).text.key for _ in range(2)] == ["{reason} The video goes on from its last section."] * 2
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
    [process] = group._running.processes
    os.kill(process.pid, signal.SIGSTOP)
    print(process.pid)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows stops no process")
def test_a_process_that_is_stopped_keeps_no_program_from_its_end(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "video")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}, capture_output=True, check=True
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_no_room_for_where_processes_meet_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    group = Group([worker(0, LocalFolder(TINY_FOLDER))])
    with pytest.raises(OutputError, match="gone"):
        next(group.generate(inputs(), output=tmp_path / "video", check=lambda: None, checkpoint=tmp_path / "kept"))
