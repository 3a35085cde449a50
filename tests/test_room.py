from functools import partial

import pytest

from diffusers_helper.core.errors import CancelledError, DiskFullError, OutputError
from diffusers_helper.core.events import StageStarted
from diffusers_helper.core.files import atomic_write
from diffusers_helper.generation import disk_wait

retry_when_disk_full = partial(disk_wait.retry_when_disk_full, poll_seconds=0.01)


def result_of(events):
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value


def test_a_write_that_works_waits_for_nothing(tmp_path):
    assert result_of(retry_when_disk_full(lambda: 7, tmp_path, 1, lambda: None)) == ([], 7)


def test_a_full_disk_is_waited_for_and_told(tmp_path):
    """/dev/full refuses as a full disk does; atomic_write removes the link to it, so the second try finds room."""
    path = tmp_path / "a.bin"
    path.with_name("a.bin.part").symlink_to("/dev/full")

    def write():
        with atomic_write(path) as part:
            part.write_bytes(b"x")
        return "written"

    events, value = result_of(retry_when_disk_full(write, tmp_path, 5_000_000, lambda: None))
    assert (value, path.read_bytes()) == ("written", b"x")
    [event] = events
    assert isinstance(event, StageStarted)
    assert event.stage == "wait"
    assert f"Free 5 MB in {tmp_path}" in event.text


def full():
    raise DiskFullError("full")


def test_it_tries_again_only_when_there_is_room(tmp_path):
    tries = []

    def write():
        tries.append(None)
        full()

    events = retry_when_disk_full(write, tmp_path, 10**18, lambda: None)
    assert [next(events).stage for _ in range(3)] == ["wait"] * 3
    assert len(tries) == 1
    events.close()


def test_the_wait_can_be_stopped(tmp_path):
    def check():
        raise CancelledError("stopped")

    events = retry_when_disk_full(full, tmp_path, 1, check)
    next(events)
    with pytest.raises(CancelledError) as stopped:
        next(events)
    assert stopped.value.__context__ is None


def test_other_errors_are_not_waited_for(tmp_path):
    def write():
        raise OutputError("read-only")

    with pytest.raises(OutputError, match="read-only"):
        next(retry_when_disk_full(write, tmp_path, 1, lambda: None))
