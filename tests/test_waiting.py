"""The line before the worker: owners take turns, and limits say whom they keep out."""

import pytest

from diffusers_helper.framepack.request import GenerationRequest
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.waiting import Waiting


def job(name):
    """A job of the owner that is the name's first letter."""
    return Job(name, GenerationRequest(), None, print, owner=name[0])


def line(names, running=None):
    waiting = Waiting(20, None)
    for name in names.split():
        waiting.join(job(name), running and job(running))
    return waiting


@pytest.mark.parametrize(
    ("names", "running", "order"),
    [
        ("", None, ""),
        ("a1 a2 a3", None, "a1 a2 a3"),
        ("a1 a2 b1", None, "a1 b1 a2"),  # nobody's first waits for a second
        ("a1 a2 a3 b1 b2 c1", None, "a1 b1 c1 a2 b2 a3"),
        ("a1 a2 b1", "a0", "b1 a1 a2"),  # what runs counts
        ("a1 b1 b2", "b0", "a1 b1 b2"),
    ],
)
def test_owners_take_turns(names, running, order):
    assert " ".join(job.id for job in line(names, running)) == order


def test_what_was_there_before_keeps_its_place():
    waiting = line("a1 a2")
    waiting.append(job("a3"))
    waiting.leave("a1")
    waiting.leave("unknown")
    assert (waiting.next().id, len(waiting)) == ("a2", 1)


def test_limits_name_whom_they_keep_out():
    waiting = Waiting(3, 2)
    for name in ("a1", "a2"):
        assert (waiting.full(), waiting.full_for("a")) == ("", "")
        waiting.join(job(name), None)
    assert waiting.full_for("a") == "2 of your jobs are waiting already; try again when one is done."
    assert waiting.full_for("b") == ""
    waiting.join(job("b1"), None)
    assert waiting.full() == "3 jobs are waiting already, and no more than 3 may; try again when one is done."
