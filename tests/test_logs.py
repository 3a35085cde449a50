import logging
import warnings
from datetime import datetime

import pytest

from diffusers_helper.service.logs import logging_to


def read(folder):
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.log")))


@pytest.fixture
def own():
    return logging.getLogger("diffusers_helper.test")


def test_lines_go_to_the_console_and_to_the_days_file(tmp_path, own, capsys):
    with logging_to(tmp_path / "7860"):
        own.info("Job %s started", "abc")
    today = f"{datetime.now():%Y%m%d}"
    assert [path.name for path in (tmp_path / "7860").iterdir()] == [f"framepack_{today}.log"]
    line = read(tmp_path / "7860")
    assert line.endswith(" INFO diffusers_helper.test: Job abc started\n")
    assert capsys.readouterr().err == line


def test_a_new_day_is_a_new_file(tmp_path, own):
    with logging_to(tmp_path):
        for day in (1, 1, 2, 1):
            record = own.makeRecord(own.name, logging.INFO, "", 0, f"day {day}", (), None)
            record.created = datetime(2026, 11, day, 12).timestamp()
            own.handle(record)
    texts = {path.name: path.read_text().count("\n") for path in tmp_path.iterdir() if path.stat().st_size}
    assert texts == {"framepack_20261101.log": 3, "framepack_20261102.log": 1}


def test_a_second_start_appends(tmp_path, own):
    for text in ("first", "second"):
        with logging_to(tmp_path):
            own.warning(text)
    assert [line.split()[-1] for line in read(tmp_path).splitlines()] == ["first", "second"]


def test_any_text_can_be_logged(tmp_path, own):
    with logging_to(tmp_path):
        own.info("猫 🐈 \ud800 %s {0}", "{}")
    assert "猫 🐈 \\ud800 {} {0}\n" in read(tmp_path)


@pytest.mark.parametrize(("level", "seen"), [("debug", 3), ("info", 2), ("error", 1)])
def test_the_level_is_that_of_the_program_and_libraries_are_heard_from_warning_on(tmp_path, own, level, seen):
    library = logging.getLogger("some_library")
    with logging_to(tmp_path, level):
        for logger in (own, library):
            for severity in (logging.DEBUG, logging.INFO, logging.ERROR):
                logger.log(severity, "text")
    assert read(tmp_path).count("diffusers_helper.test") == seen
    assert read(tmp_path).count("some_library") == 1


def test_warnings_are_logged(tmp_path):
    with logging_to(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old name", DeprecationWarning, stacklevel=1)
    assert "old name" in read(tmp_path)


def test_afterwards_all_is_as_before(tmp_path, own):
    root = logging.getLogger()
    before = list(root.handlers), root.level, logging.getLogger("diffusers_helper").level, warnings.showwarning
    with logging_to(tmp_path):
        assert len(root.handlers) == len(before[0]) + 2
    assert (
        list(root.handlers),
        root.level,
        logging.getLogger("diffusers_helper").level,
        warnings.showwarning,
    ) == before


def test_without_a_writable_folder_the_console_says_so(tmp_path, own, capsys):
    (tmp_path / "file").touch()
    with logging_to(tmp_path / "file" / "logs"):
        own.info("started")
    shown = capsys.readouterr().err
    assert "There is no log file" in shown
    assert "started" in shown
