"""The snapshots that everybody sees, and claims: one at a time for each job, without a lock."""

import threading

import pytest

from diffusers_helper.core.errors import UnknownJobError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.board import Board
from diffusers_helper.jobs.progress import first_snapshot
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.state import JobState

SECONDS = 60


@pytest.fixture
def board():
    return Board(keep=2)


def post(board, *names):
    for name in names:
        board.post(first_snapshot(JobRecord(name, GenerationRequest(seed=7))))


def end(board, name, **changes):
    board.update(name, state=JobState.DONE, finished=float(name), **changes)


def test_a_version_grows_with_each_change_and_only_then(board):
    post(board, "1")
    board.update("1", description="Reading")
    board.update("1", description="Reading")
    assert board.snapshot("1").version == 1
    end(board, "1")
    board.update("1", description="a run that was abandoned still talks")
    assert (board.snapshot("1").version, board.snapshot("1").description) == (2, "Reading")
    board.amend("1", description="Given up")
    assert (board.snapshot("1").version, board.snapshot("1").description) == (3, "Given up")
    post(board, "1")  # it goes on
    assert board.snapshot("1").version == 4
    board.update("unknown", description="x")
    with pytest.raises(UnknownJobError):
        board.amend("unknown", description="x")


def test_the_oldest_that_ended_are_forgotten_but_none_that_can_go_on(board):
    post(board, "1", "2", "3", "4", "5")
    board.redeem("token", "3")
    end(board, "1", resumable=True)
    for name in "2345":
        end(board, name)
    assert [seen.id for seen in board.jobs()] == ["1", "4", "5"]
    assert board.redeem("token", "6") == "6"  # its job is forgotten, and it stands for another one
    board.amend("1", resumable=False)  # given up
    assert [seen.id for seen in board.jobs()] == ["4", "5"]


def test_who_claims_a_job_that_is_claimed_waits_and_nobody_else(board):
    post(board, "1", "2")
    claimed = threading.Event()

    def claim():
        with board.claim("1"):
            claimed.set()

    thread = threading.Thread(target=claim)
    with board.claim("1") as seen:
        assert seen.id == "1"
        thread.start()
        with board.claim("2"):
            board.update("1", description="Reading")
        assert not claimed.wait(0.05)
    assert claimed.wait(SECONDS)
    thread.join(SECONDS)
    with pytest.raises(UnknownJobError), board.claim("3"):
        pass
    with pytest.raises(ZeroDivisionError), board.claim("1"):
        raise ZeroDivisionError
    with board.claim("1"):
        pass


def test_a_second_press_waits_until_the_first_is_kept_or_has_failed(board):
    assert board.redeem("press", "1") == "1"
    answers = []
    second = threading.Thread(target=lambda: answers.append(board.redeem("press", "2")))
    second.start()
    second.join(0.05)
    assert answers == []
    post(board, "1")
    second.join(SECONDS)
    assert answers == ["1"]

    assert board.redeem("another press", "3") == "3"
    board.void("3")  # it could not be kept
    assert board.redeem("another press", "4") == "4"
