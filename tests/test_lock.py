"""scripts/lock: what uv resolves for each Python becomes the two files of versions."""

import importlib.util
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def locking():
    spec = importlib.util.spec_from_file_location("locking", ROOT / "scripts" / "locking.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(text: str) -> list[str]:
    return [Requirement(line).name for line in text.splitlines() if line and not line.startswith("#")]


def test_versions_are_told_apart_by_who_asks_for_them(locking) -> None:
    common = {"torch": "2.13.0+cpu", "hub-client": "1", "idna": "3", "nvidia-ml-py": "13", "nvidia-cublas": "13"}
    found = [common | {"triton": "3.7"}, common | {"triton": "3.7"}, common | {"triton": "3.7", "audioop-lts": "0.2"}]
    texts = locking.files(found, ["torch", "Hub_Client", "nvidia-ml-py"])
    assert texts["requirements.txt"].count("==") == 4
    assert "torch==2.13.0\nHub_Client==1\nnvidia-ml-py==13\n" in texts["requirements.txt"]
    assert names(texts["requirements.txt"])[-1] == "idna"
    assert names(texts["constraints.txt"]) == ["audioop-lts", "nvidia-cublas", "triton"]


def test_the_files_are_those_that_the_tool_writes(locking) -> None:
    """As far as that can be told without a network: names, order and words."""
    listed = {name: (ROOT / name).read_text("utf-8") for name in ("requirements.txt", "constraints.txt")}
    versions = [
        dict(line.lower().replace("_", "-").split("==") for line in text.splitlines() if "==" in line)
        for text in listed.values()
    ]
    everywhere, some = versions
    cuda = {name: version for name, version in some.items() if name != "audioop-lts"}
    found = [everywhere | cuda, everywhere | cuda, everywhere | some]
    assert locking.files(found, locking.direct()) == listed
