"""What the documentation names is there: links, files, modules, folders in their order, and settings of the page."""

import ast
import re
from pathlib import Path

import pytest

from tests.test_architecture import FILES, LAYERS, PACKAGE

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
HISTORY = {"CHANGELOG.md", "performance-log.md"}
"""These may speak of what is no longer there."""
WRITTEN = ("outputs", "cache", "run/", "logs", "uploads", "hf_download", "FOLDER", ".cache")
"""Folders that the program writes to, and examples."""
NOT_SETTINGS = {"Original", "F1", "Use", "Report a vulnerability", "Code", "Download ZIP"}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            found = page.parent / path if path else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target


def names(page: Path) -> set[str]:
    """Files of this repository that a page names, with at least one folder."""
    found = re.findall(r"(?<![\w./-])((?:[\w.-]+/)+[\w-]+\.(?:py|sh|js|css|conf|md))\b", read(page))
    return {name for name in found if not name.startswith(WRITTEN)}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in HISTORY], ids=lambda page: page.name)
def test_files_are_where_they_are_said_to_be(page: Path) -> None:
    folders = (ROOT, ROOT / PACKAGE, ROOT / "docs")
    missing = [name for name in names(page) if not any((folder / name).exists() for folder in folders)]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in HISTORY], ids=lambda page: page.name)
def test_modules_are_called_so(page: Path) -> None:
    known = {path.name for folder in (PACKAGE, "training", "tests") for path in (ROOT / folder).rglob("*.py")}
    for name in re.findall(r"`([a-z_]+\.py)`", read(page)):
        assert (ROOT / name).exists() or name in known, name
    for module in re.findall(r"python -m ((?:benchmarks|training|tests)\.\w+)", read(page)):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module


def test_the_table_of_layers_has_them_in_their_order() -> None:
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", read(ROOT / "docs/architecture.md"), re.MULTILINE)
    assert set(rows) == set(LAYERS) - {"__main__"}
    assert rows == [layer for layer in LAYERS if layer != "__main__"]


def test_the_readme_has_every_folder() -> None:
    tree = re.findall(r"^  (\w+)/ ", read(ROOT / "README.md"), re.MULTILINE)
    folders = [path.name for path in (ROOT / PACKAGE).iterdir() if path.is_dir() and not path.name.startswith("_")]
    assert sorted(tree) == sorted(folders)


def sentences() -> set[str]:
    """What the page says in English; the models' names come from where all is told of them."""
    said = (f"{PACKAGE}.gradio", f"{PACKAGE}.core.variants")
    parts = [path for module, path in FILES.items() if module.startswith(said)]
    nodes = [node for path in parts for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("name", ["README.md", "docs/troubleshooting.md", "docs/resume.md", "docs/memory.md"])
def test_settings_are_called_as_on_the_page(name: str) -> None:
    shown = {re.sub(r"\s+", " ", word) for word in re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", read(ROOT / name))}
    assert shown - NOT_SETTINGS <= sentences()
