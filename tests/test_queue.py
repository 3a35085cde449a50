"""The queue: owners take turns, places are numbers that can be kept, and limits say whom they keep out."""

import pytest

from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.queue import JobQueue, Ticket
from diffusers_helper.media.inputs import JobInputs


def job(name):
    """A job of the owner that is the name's first letter."""
    return Job(name, GenerationRequest(), lambda: JobInputs(GenerationRequest(), {}), print, owner=name[0])


def add(queue, name, running=None):
    ticket = queue.enqueue(name, name[0], [running[0]] if running else [])
    queue.fill(job(name))
    return ticket


def line(names, running=None):
    queue = JobQueue(20, None)
    for name in names.split():
        add(queue, name, running)
    return queue


def order(queue):
    return " ".join(ticket.job_id for ticket in queue)


@pytest.mark.parametrize(
    ("names", "running", "expected"),
    [
        ("", None, ""),
        ("a1 a2 a3", None, "a1 a2 a3"),
        ("a1 a2 b1", None, "a1 b1 a2"),  # nobody's first waits for a second
        ("a1 a2 a3 b1 b2 c1", None, "a1 b1 c1 a2 b2 a3"),
        ("a1 a2 b1", "a0", "b1 a1 a2"),  # what runs counts
        ("a1 b1 b2", "b0", "a1 b1 b2"),
    ],
)
def test_owners_take_turns_and_their_numbers_say_so(names, running, expected):
    queue = line(names, running)
    assert order(queue) == expected
    kept = sorted(queue, key=lambda ticket: ticket.order)
    assert kept == list(queue)

    later = JobQueue(20, None)  # what another process makes of the numbers, in whatever order it reads them
    for ticket in reversed(kept):
        later.put_back(ticket)
    assert order(later) == expected


def test_what_comes_back_goes_where_it_was_and_what_is_new_behind_it():
    queue = line("a1 a2 a3")
    running = next(iter(queue))
    assert queue.take().id == "a1"
    queue.put_back(running)
    queue.fill(job("a1"))
    assert order(queue) == "a1 a2 a3"

    later = JobQueue(20, None)
    later.continue_after(7.0)  # of one that was cut off and may come back
    add(later, "a9")
    later.put_back(Ticket("a8", "a", 7.0))
    assert order(later) == "a8 a9"


def test_a_job_is_taken_when_it_is_here_and_its_place_counts_before():
    queue = JobQueue(2, None)
    queue.enqueue("a1", "a", [])
    assert (len(queue), queue.ready) == (1, False)
    with pytest.raises(LookupError):
        queue.take()
    add(queue, "a2")
    assert "2 jobs are waiting" in queue.full()
    assert (queue.take().id, order(queue)) == ("a2", "a1")
    queue.fill(job("a1"))
    queue.remove("unknown")
    queue.remove("a1")
    assert (len(queue), queue.ready) == (0, False)


def test_clearing_gives_the_jobs_that_are_here_in_order():
    queue = line("a1 a2 b1")
    queue.enqueue("c1", "c", [])
    assert [found.id for found in queue.clear()] == ["a1", "b1", "a2"]
    assert (len(queue), queue.ready) == (0, False)


def test_limits_name_whom_they_keep_out():
    queue = JobQueue(3, 2)
    for name in ("a1", "a2"):
        assert (queue.full(), queue.full_for("a")) == ("", "")
        add(queue, name)
    assert queue.full_for("a") == "2 of your jobs are waiting already; try again when one is done."
    assert queue.full_for("b") == ""
    add(queue, "b1")
    assert queue.full() == "3 jobs are waiting already, and no more than 3 may; try again when one is done."
