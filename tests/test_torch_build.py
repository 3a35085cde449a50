"""Which build of PyTorch a set-up takes: by card and driver, and anew when these change."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_scripts import Clone, executable
from tests.test_scripts import clone as clone
from tests.test_scripts import fake as fake

ROOT = Path(__file__).parents[1]
TORCH = "2.13.0"


@pytest.fixture(scope="module")
def builds():
    spec = importlib.util.spec_from_file_location("torch_build", ROOT / "scripts" / "torch_build.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch_build", module)  # where its dataclasses look for their module
        spec.loader.exec_module(module)
        yield module


CASES = [  # platform, driver, capability, AMD: names in their order
    (("linux", "", None, False), ["cpu", "usual"]),
    (("win32", "", None, False), ["cpu", "usual"]),
    (("darwin", "", None, False), ["usual"]),
    (("linux", "", None, True), ["rocm7.2", "rocm7.1", "rocm7.0", "rocm6.4", "cpu", "usual"]),
    (("linux", "590.48.01", (9, 0), False), ["usual", "cu130", "cu129", "cu128", "cu126", "cpu", "usual"]),
    (("linux", "580.65.06", (7, 5), False), ["usual", "cu130", "cu129", "cu128", "cu126", "cpu", "usual"]),
    (("linux", "580.65.06", None, False), ["usual", "cu130", "cu129", "cu128", "cu126", "cpu", "usual"]),
    (("win32", "581.29", (8, 9), False), ["cu130", "cu129", "cu128", "cu126", "cpu", "usual"]),
    (("linux", "579.99", (8, 6), False), ["cu129", "cu128", "cu126", "cpu", "usual"]),
    (("linux", "525.60.13", (8, 6), False), ["cu129", "cu128", "cu126", "cpu", "usual"]),
    (("linux", "580.65.06", (6, 1), False), ["cu126", "cpu", "usual"]),
    (("linux", "524.0", (8, 6), False), ["cpu", "usual"]),
    (("linux", "470.256", (3, 5), False), ["cpu", "usual"]),
]


@pytest.mark.parametrize(("computer", "names"), CASES)
def test_a_computer_takes_the_newest_build_that_its_driver_serves(builds, computer, names):
    platform, driver, capability, amd = computer
    machine = builds.Machine(platform, driver, capability, ("Card",) if driver else (), amd)
    found = builds.choices(machine)
    assert [build.name for build in found] == names
    assert all(build.index == ("" if build.name == "usual" else f"{builds.PYTORCH}/{build.name}") for build in found)
    assert all(build.why and not build.asked for build in found)


def test_the_drivers_are_those_that_the_program_tells(builds):
    from diffusers_helper.service.nvidia import LEAST_DRIVERS

    assert {12: builds.CUDA_12, 13: builds.CUDA_13} == LEAST_DRIVERS


SMI = {
    "two cards": ("echo '580.65.06, 8.6, RTX 3090'; echo '580.65.06, 7.5, RTX 2060'", "580.65.06", (7, 5)),
    "an old driver": ('case "$1" in *compute_cap*) exit 2 ;; esac; echo "440.33, GT 710"', "440.33", None),
    "no card": ("echo No devices were found", "", None),
    "no answer": ("exit 9", "", None),
}


@pytest.mark.parametrize("case", SMI)
def test_what_nvidia_smi_says(builds, case, tmp_path, monkeypatch):
    script, driver, capability = SMI[case]
    executable(tmp_path / "nvidia-smi", f"#!/bin/sh\n{script}\n")
    monkeypatch.setenv("PATH", f"{tmp_path}")
    found = builds.look("linux", tmp_path)
    assert (found.driver, found.capability) == (driver, capability)
    assert str(found) == (f"{', '.join(found.cards)} with driver {driver}" if driver else "no card")


@pytest.mark.parametrize(("chip", "known"), [(110000, True), (120001, True), (110003, False), (0, False)])
def test_amds_cards_and_not_the_graphics_of_processors(builds, chip, known, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "properties").write_text(f"simd_count 96\ngfx_target_version {chip}\n")
    assert builds.look("linux", tmp_path).amd is known


def smi(folder: Clone, line: str) -> None:
    executable(folder.bin / "nvidia-smi", f"#!/bin/sh\necho '{line}'\n")


def pip(folder: Clone, *offered: str) -> str:
    """A pip that finds these builds in indexes of their names, 2.13.0 in its own, and notes its calls."""
    lists = "".join(f" *whl/{name.partition('+')[2]}*) echo '2.12.0, {name}, {TORCH}' ;;" for name in offered)
    return f'echo "$@" >> {folder.folder}/pip; [ "$3" != index ] || case "$*" in{lists} *) echo {TORCH} ;; esac'


def installs(folder: Clone) -> list[str]:
    file = folder.folder / "pip"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return [line for line in lines if " install " in line or " uninstall " in line]


@pytest.mark.slow
def test_one_line_says_what_is_taken_and_a_change_of_card_is_noticed(fake: Clone) -> None:
    fake.require(f"torch=={TORCH}\n")
    (fake.folder / "constraints.txt").write_text("audioop-lts==0.2.2\nnvidia-cudnn-cu13==9.2\ntriton==3.7.1\n")
    environment = fake.folder / "scripts" / "environment.py"
    environment.write_text(environment.read_text().replace("(2.9, 11)", "(2.9, 0)").replace("(0.35, 3)", "(0.35, 0)"))
    own = {"FAKE_PIP": pip(fake, f"{TORCH}+cpu", f"{TORCH}+cu128")}

    said = fake("setup", **own)
    assert "PyTorch without CUDA from https://download.pytorch.org/whl/cpu: there is no NVIDIA card" in said
    [install] = installs(fake)
    assert install.endswith("-c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu")
    assert fake("setup", **own) == ""

    smi(fake, "570.86, 8.6, RTX 3090")
    constraints = fake.folder / ".cache" / "setup" / "constraints.txt"
    own["FAKE_PIP"] += f"; [ ! -e {constraints} ] || cp {constraints} {fake.folder}/held"
    said = fake("setup", **own)
    assert "has changed. PyTorch for cu128 from https://download.pytorch.org/whl/cu128: RTX 3090 with driver" in said
    assert "a newer build needs driver 580" in said
    assert "made anew" not in said
    taken_out, install = installs(fake)
    assert "uninstall --yes torch" in taken_out
    assert install.endswith("constraints.txt --extra-index-url https://download.pytorch.org/whl/cu128")
    assert (fake.folder / "held").read_text() == f"audioop-lts==0.2.2\ntorch=={TORCH}+cu128\n"
    assert fake("setup", **own) == ""

    smi(fake, "575.12, 8.9, RTX 4090")  # another card that takes the same build
    assert fake("setup", **own) == ""
    assert installs(fake) == []
    assert "RTX 4090" in json.loads((fake.folder / ".venv" / "torch.json").read_text())["machine"]

    assert "FRAMEPACK_TORCH=cpu says so" in fake("setup", FRAMEPACK_TORCH="cpu", **own)
    assert len(installs(fake)) == 2
    smi(fake, "590.1, 9.0, H100")
    assert fake("setup", **own) == "", "what was asked for stays"


@pytest.mark.slow
def test_an_environment_of_old_keeps_its_torch(fake: Clone) -> None:
    fake("setup")
    fake.require(f"torch=={TORCH}\n")
    fake("setup", FAKE_PIP=pip(fake))
    [install] = installs(fake)
    assert "index" not in install
    smi(fake, "590.1, 9.0, H100")
    assert fake("setup", FAKE_PIP=pip(fake)) == ""


@pytest.mark.slow
def test_an_index_that_does_not_answer_leaves_the_usual_build(fake: Clone) -> None:
    fake.require(f"torch=={TORCH}\n")
    environment = fake.folder / "scripts" / "environment.py"
    environment.write_text(environment.read_text().replace("(2.9, 11)", "(2.9, 0)"))
    own = f'case "$*" in *index*whl/*) echo Connection refused; exit 1 ;; *index*) echo {TORCH} ;; esac'
    assert "PyTorch's usual build: PyTorch's own index has no other, or does not answer" in fake("setup", FAKE_PIP=own)


def wheel(folder: Path, version: str) -> None:
    """A torch of that version that holds nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def index_of(folder: Path) -> None:
    (folder / "index.html").write_text("".join(f'<a href="{x.name}">{x.name}</a>' for x in folder.glob("*.whl")))


@pytest.mark.slow
def test_with_real_indexes_on_the_disk(clone: Clone, tmp_path: Path) -> None:
    """pip's own is a file, and so is PyTorch's: a computer without a card, then with one, then one that is told."""
    web = tmp_path / "web"
    for place, version in {"own": TORCH, "whl/cpu": f"{TORCH}+cpu", "whl/cu128": f"{TORCH}+cu128"}.items():
        wheel(web / place / "torch", version)
        index_of(web / place / "torch")
    wheel(web / "mirror" / "torch", f"{TORCH}+mine")
    index_of(web / "mirror" / "torch")
    script = clone.folder / "scripts" / "torch_build.py"
    script.write_text(script.read_text().replace("https://download.pytorch.org", f"file://{web}"))
    environment = clone.folder / "scripts" / "environment.py"
    environment.write_text(environment.read_text().replace("(2.9, 11)", "(2.9, 0)").replace("(0.35, 3)", "(0.35, 0)"))
    clone.require(f"torch=={TORCH}\n")
    own = {"PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"file://{web}/own"}
    own |= {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_CONSTRAINT": ""}

    def inside() -> str:
        [found] = (clone.folder / ".venv").glob("lib/python3*/site-packages/torch-*.dist-info")
        return found.name.removeprefix("torch-").removesuffix(".dist-info")

    assert "there is no NVIDIA card" in clone("setup", **own)
    assert inside() == f"{TORCH}+cpu"
    smi(clone, "570.86, 8.6, RTX 3090")
    assert "RTX 3090 with driver 570.86" in clone("setup", **own)
    assert inside() == f"{TORCH}+cu128"
    assert "TORCH_INDEX_URL says so" in clone("setup", TORCH_INDEX_URL=f"file://{web}/mirror", **own)
    assert inside() == f"{TORCH}+mine"
    assert clone("setup", **own) == ""


def test_setup_needs_only_pythons_own_library() -> None:
    code = "import sys; sys.path.insert(0, 'scripts'); import environment, torch_build"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=ROOT, check=True)
