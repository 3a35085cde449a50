import logging
import threading

import pytest

from diffusers_helper.thread_utils import AsyncStream, async_run


def test_queue_is_first_in_first_out_and_answers_none_when_empty():
    queue = AsyncStream().output_queue
    assert (queue.top(), queue.pop()) == (None, None)
    for item in (1, None, 3):
        queue.push(item)
    assert (queue.top(), queue.pop(), queue.next(), queue.pop(), queue.pop()) == (1, 1, None, 3, None)


def test_next_waits_for_an_item():
    stream = AsyncStream()
    got = async_run(stream.output_queue.next)
    assert not got.done()
    stream.output_queue.push("frame")
    assert got.result(timeout=60) == "frame"


def test_both_ways_between_two_threads():
    stream = AsyncStream()

    def work(count, *, factor):
        for number in range(count):
            stream.output_queue.push(number * factor)
            if stream.input_queue.next() == "end":
                return "ended"
        return "finished"

    future = async_run(work, 10, factor=2)
    assert stream.output_queue.next() == 0
    stream.input_queue.push("more")
    assert stream.output_queue.next() == 2
    stream.input_queue.push("end")
    assert future.result(timeout=60) == "ended"
    assert stream.output_queue.pop() is None


def test_two_runs_do_not_wait_for_each_other():
    meeting = threading.Barrier(2)
    runs = [async_run(meeting.wait, 5) for _ in range(2)]
    assert sorted(run.result(timeout=60) for run in runs) == [0, 1]


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3), KeyboardInterrupt()])
def test_an_exception_is_in_the_future_and_in_the_log(error, caplog):
    def fail():
        raise error

    with caplog.at_level(logging.ERROR):
        assert async_run(fail).exception(timeout=60) is error
    assert "fail failed in its thread" in caplog.text
