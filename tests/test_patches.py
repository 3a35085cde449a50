"""Tests hand their fakes in: few replace a name of ours behind its back, and none a private one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("diffusers_helper", "benchmarks", "training")
MOST = 40
"""How many there are; the number may only become smaller."""


def patches(source: str) -> Iterator[str]:
    """What the code of a test replaces of ours by `monkeypatch.setattr`: the names, as far as the code tells.

    A string counts by its beginning, anything else by what its first name was imported from; what a test has made or
    was given (an object of ours, maybe) counts as ours. A module that ours only imports is somebody else's.
    """
    tree = ast.parse(source)
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {(name.asname or name.name).split(".")[0]: name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr"):
            continue
        target = node.args[0]
        if isinstance(target, ast.Constant):
            name = str(target.value)
        else:
            words = ast.unparse(target).split(".")
            attribute = node.args[1].value if isinstance(node.args[1], ast.Constant) else "?"
            name = ".".join([imported.get(words[0], f"{OURS[0]}:{words[0]}"), *words[1:], str(attribute)])
        if name.startswith(OURS) and not through_another_module(name):
            yield name


def through_another_module(name: str) -> bool:
    """Whether a name leads through a module of ours to one of somebody else's, as `ours.watchdog.os.execv` does."""
    words = name.split(".")
    for length in range(len(words) - 1, 1, -1):
        file = ROOT.joinpath(*words[:length]).with_suffix(".py")
        if file.exists():
            found = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import)]
            return words[length] in {
                (alias.asname or alias.name).split(".")[0] for node in found for alias in node.names
            }
    return False


def test_what_counts_as_a_patch_of_ours() -> None:
    source = """
import shutil
from diffusers_helper.service import watchdog
from diffusers_helper.jobs.worker import Worker
monkeypatch.setattr(shutil, "disk_usage", full)
monkeypatch.setattr("time.sleep", None)
monkeypatch.setattr(watchdog.os, "execv", None)
monkeypatch.setattr("diffusers_helper.gradio.door.incoming.tempfile.mkstemp", None)
monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.01)
patch.setattr(Worker, "_main", None)
patch.setattr(page.manager._queue, "limit", 0)
monkeypatch.setattr("training.checkpoint.MAX_PIECE", 1000)
"""
    assert list(patches(source)) == [
        "diffusers_helper.service.watchdog.LOOK_SECONDS",
        "diffusers_helper.jobs.worker.Worker._main",
        "diffusers_helper:page.manager._queue.limit",
        "training.checkpoint.MAX_PIECE",
    ]


def test_few_names_of_ours_are_replaced_and_no_private_one() -> None:
    files = sorted((ROOT / "tests").glob("*.py"))
    texts = {file.name: file.read_text() for file in files}
    found = [f"{file}: {name}" for file, text in texts.items() if ".setattr(" in text for name in patches(text)]
    assert len(found) <= MOST, "hand the fake in, as an argument or a field:\n" + "\n".join(found)
    private = [name for name in found if re.search(r"[.:]_(?!_)", name)]
    assert not private
