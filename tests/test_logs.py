import logging
import os
import subprocess
import sys
import warnings
from datetime import datetime
from pathlib import Path

import pytest

from diffusers_helper.jobs.job import new_job_id, public_name
from diffusers_helper.service.logs import DailyFileHandler, logging_to


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


def sizes(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def write_lines(handler, own, count, day=28, hour=12):
    for number in range(count):
        record = own.makeRecord(own.name, logging.INFO, __file__, 1, f"{number:099}", (), None)
        record.created = datetime(2026, 11, day, hour).timestamp()
        handler.handle(record)


def test_a_large_day_has_several_files_and_the_oldest_go(tmp_path, own):
    handler = DailyFileHandler(tmp_path, file_bytes=1000, folder_bytes=5000)
    write_lines(handler, own, 35, day=1)
    today = {name for name in sizes(tmp_path) if f"{datetime.now():%Y%m%d}" in name}
    assert {name for name in sizes(tmp_path) if name not in today} == {
        "framepack_20261101.log",
        "framepack_20261101_2.log",
        "framepack_20261101_3.log",
        "framepack_20261101_4.log",
    }
    write_lines(handler, own, 1000, day=2)
    handler.close()
    left = sizes(tmp_path)
    assert sum(left.values()) <= 5000
    assert max(left.values()) <= 1100
    assert "framepack_20261102_100.log" in left, "the newest stays"
    assert "framepack_20261102_9.log" not in left
    assert not [name for name in left if "1101" in name]


def test_a_restart_goes_on_in_the_newest_file_of_the_day(tmp_path, own):
    for _ in range(2):
        handler = DailyFileHandler(tmp_path, file_bytes=1000, folder_bytes=5000)
        write_lines(handler, own, 12)
        handler.close()
    assert sizes(tmp_path)["framepack_20261128.log"] == 1000
    assert sizes(tmp_path)["framepack_20261128_3.log"] == 400


def test_what_somebody_else_put_there_stays(tmp_path, own):
    (tmp_path / "notes.txt").write_bytes(bytes(9000))
    handler = DailyFileHandler(tmp_path, file_bytes=1000, folder_bytes=3000)
    write_lines(handler, own, 100)
    handler.close()
    assert (tmp_path / "notes.txt").exists()


def test_of_a_jobs_id_only_the_time_is_told(tmp_path, own, capsys):
    job = new_job_id()
    with logging_to(tmp_path):
        own.info("Job %s: original, in /outputs/%s_partial_01.mp4", job, job)
        try:
            raise OSError(f"no room for {job}.mp4")
        except OSError:
            own.exception("failed")
    secret = job.rpartition("_")[2]
    for text in (read(tmp_path), capsys.readouterr().err):
        assert secret not in text
        assert f"Job {public_name(job)}: original, in /outputs/{public_name(job)}_partial_01.mp4\n" in text


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["\ud800", b"\xff".decode(errors="surrogateescape"), "a\0b", "\U0010ffff"])
@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_odd_text_is_logged_whatever_the_locale(tmp_path, odd, environment):
    code = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from diffusers_helper.service.logs import logging_to\n"
        f"with logging_to(Path(sys.argv[1])): logging.getLogger('diffusers_helper').info('odd %s', {odd!a})\n"
    )
    root = Path(__file__).parents[1]
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), **environment}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=bare, capture_output=True)
    assert done.returncode == 0
    assert b"odd " in done.stderr
    assert b"Traceback" not in done.stderr
    assert "odd " in read(tmp_path)


@pytest.mark.slow
def test_a_line_that_cannot_be_made_is_said_and_raises_nothing(tmp_path):
    code = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from diffusers_helper.service.logs import logging_to\n"
        "class Odd:\n"
        "    def __str__(self): raise RuntimeError\n"
        "with logging_to(Path(sys.argv[1])):\n"
        "    logging.getLogger('diffusers_helper').info('value %s', Odd())\n"
        "    logging.getLogger('diffusers_helper').info('%d of %d', 1)\n"
    )
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert read(tmp_path).count("cannot be written") == done.stderr.count("cannot be written") == 2
    assert "Traceback" not in done.stderr
