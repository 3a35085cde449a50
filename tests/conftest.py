"""Tests run on the CPU, on one thread, without network or model cache; `pytest --gpu` adds the GPU tests."""

import atexit
import gc
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

os.environ |= {  # before torch, gradio and huggingface_hub are imported: they read these once
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": str(Path(__file__).parent / ".no-models-here"),
    # What names no folder of its own writes there, and not into the checkout.
    "FRAMEPACK_DATA": (_data := tempfile.TemporaryDirectory(prefix="framepack-data-")).name,
}

import numpy as np
import pytest
import torch

from tests.golden import recorded_exp
from tests.left_out import NO_GPU, pytest_sessionfinish, pytest_terminal_summary
from tests.quick import quick_decoding

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary"]  # hooks
atexit.register(_data.cleanup)

NO_CHROMIUM = "no Chromium is installed"
NO_START = "Chromium does not start here"
START = """
import sys
from tests.chromium import headless
with headless(sys.argv[1]) as browser:
    browser.new_page().goto("about:blank")
"""
ROOT = Path(__file__).parents[1]
LONGEST = (
    "accessibility", "after_a_kill", "attacks", "benchmarks", "browser", "clip_generation", "end_to_end",
    "given_videos", "group_kills", "groups", "instances", "journey", "kills", "main_path", "models_command", "options",
    "starts", "timeline_page", "training", "ulysses", "variants_on_page",
)  # fmt: skip
"""Files that take half a minute or more, whatever their number of tests: they begin first, so that all workers end
together."""
NO_NODE = "Playwright's node does not run; on Debian: sudo apt install libatomic1"


def chromium_path() -> str | None:
    """The program that the browser tests drive."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def why_no_browser() -> str:
    """What browser tests lack here; empty if nothing."""
    if chromium_path() is None:
        return NO_CHROMIUM
    driver = subprocess.run([sys.executable, "-m", "playwright", "--version"], capture_output=True)
    if driver.returncode:
        return NO_NODE
    tried = subprocess.run(
        [sys.executable, "-c", START, chromium_path()], cwd=ROOT, capture_output=True, text=True, errors="replace"
    )
    return f"{NO_START}: {_complaint(tried.stderr)}" if tried.returncode else ""


def _complaint(said: str) -> str:
    """The line in which Chromium says why it ended, or the last one."""
    lines = [line.rpartition("[err] ")[2].strip() for line in said.splitlines() if line.strip()] or ["it says nothing"]
    return next((line for line in lines if "FATAL:" in line or "ERROR:" in line), lines[-1])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run the tests marked gpu, and let all see the GPU")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)  # Chromium is started to see whether it does only where its tests were chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = {}
    if not config.getoption("--gpu"):
        left_out["gpu"] = NO_GPU
    if any(item.get_closest_marker("browser") for item in items) and (reason := why_no_browser()):
        left_out["browser"] = reason
    for item in items:
        for marker, reason in left_out.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among what is imported, a million objects that stay; nor later, which models do often."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        for name in logging.root.manager.loggerDict:
            if name.startswith("torch."):  # six times a test pytest would go to each of torch's 40 that pass nothing on
                logging.getLogger(name).propagate = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make captured text printable: reports travel between processes as UTF-8, which has no lone surrogates."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _micro_model() -> None:
    """Make the model folder of `tests.tiny`, once, if a test file has imported that."""
    if (tiny := sys.modules.get("tests.tiny")) is not None:
        tiny.fill()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the Chromium to give to playwright as `executable_path`."""
    path = chromium_path()
    assert path, NO_CHROMIUM
    return path


@pytest.fixture(scope="module")
def browser(chromium):
    """Headless Chromium, for one file of tests."""
    from tests.chromium import headless

    with headless(chromium) as browser:
        yield browser


@pytest.fixture
def server(tmp_path):
    """A page of a test's own; a file whose tests share one, or that needs another one, says so."""
    from tests.fakes import serve_page

    with serve_page(tmp_path) as server:
        yield server


@pytest.fixture
def user(browser, server):
    """A person's browser, wide enough for everything, that looks at `server`."""
    from tests.browsing import WIDE, visit

    with visit(browser, server.url, viewport=WIDE) as user:
        yield user


@pytest.fixture(scope="session")
def ffprobe() -> str:
    """Path of ffprobe."""
    path = shutil.which("ffprobe")
    if path is None:
        pytest.skip("there is no ffprobe; on Debian: sudo apt install ffmpeg")
    return path


@pytest.fixture(name="recorded_exp")
def _recorded_exp() -> Iterator[None]:
    """Let `exp` round as it did where the golden vectors come from."""
    with recorded_exp():
        yield


@pytest.fixture
def _quick() -> Iterator[None]:
    """Decode as `tests.quick` does."""
    with quick_decoding():
        yield


@pytest.fixture(autouse=True)
def _same_numbers_every_time(pytestconfig: pytest.Config) -> Iterator[None]:
    random.seed(0)
    np.random.seed(0)
    # Without a GPU `torch.manual_seed` writes three stack traces down, which takes as long as a small test.
    (torch.manual_seed if pytestconfig.getoption("--gpu") else torch.default_generator.manual_seed)(0)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def kept_environment() -> Iterator[None]:
    """Put back what a program changes in the environment of its process, which here is the tests' own."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def open_folder():
    """A folder that every user may reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
