import logging

from diffusers_helper.service.log_limits import LogLimit, limited


def test_what_repeats_is_counted_and_the_rest_is_said():
    now, lines = [0.0], []
    limit = LogLimit(most=2, seconds=60, clock=lambda: now[0])

    def say(message, *args, name="asyncio", level=logging.ERROR):
        record = logging.LogRecord(name, level, "", 0, message, args, None)
        if limit.filter(record):
            lines.append(record.getMessage())

    for number in range(1000):
        say("socket.accept() out of system resource\nsocket: %s", number)
    say("another %s", 1)
    say("socket.accept() out of system resource", level=logging.INFO)
    now[0] = 60.0
    say("socket.accept() out of system resource")
    now[0] = 200.0
    say("socket.accept() out of system resource")
    first = "socket.accept() out of system resource"
    assert lines == [
        f"{first}\nsocket: 0",
        f"{first}\nsocket: 1",
        "another 1",
        first,
        f"{first} (and 998 more like it before)",
        first,
    ]


def test_many_kinds_take_no_room():
    limit = LogLimit(most=1)
    for number in range(10_000):
        assert limit.filter(logging.LogRecord("x", logging.INFO, "", 0, f"kind {number}", (), None))
    assert len(limit._seen) <= 200


def test_a_logger_is_limited_inside_and_not_after(caplog):
    logger = logging.getLogger("tests.limited")
    with limited("tests.limited"):
        for _ in range(100):
            logger.warning("again")
    assert len(caplog.records) == 10
    logger.warning("again")
    assert len(caplog.records) == 11
