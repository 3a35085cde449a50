"""The wheel: it has all that the program reads, and outside of the checkout two commands make a video from it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from diffusers_helper.core.version import VERSION
from diffusers_helper.model_files.choice import TINY_FOLDER, tiny_folder
from diffusers_helper.service import places
from diffusers_helper.service.places import Folders
from diffusers_helper.service.versions import TESTED
from tests.test_packages import listed

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_what_the_wheel_asks_for_is_what_the_requirements_hold() -> None:
    held = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in listed("requirements.txt")}
    asked = {canonicalize_name(one.name): one for one in map(Requirement, PROJECT["dependencies"])}
    for name, one in asked.items():
        assert one.specifier.contains(held[name]), one
    for name, versions in TESTED.items():
        assert all(asked[name].specifier.contains(f"{version}.0") for version in versions), asked[name]


def test_the_requirements_begin_with_what_the_wheel_asks_for() -> None:
    text = (ROOT / "requirements.txt").read_text("utf-8").partition("\n\n")[0]
    direct = [Requirement(line).name for line in text.splitlines() if not line.startswith("#")]
    assert direct == [Requirement(one).name for one in PROJECT["dependencies"]]


def test_the_tools_are_those_of_the_set_up() -> None:
    held = {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in listed("requirements-dev.txt")
    }
    extra = {canonicalize_name(one.name): one for one in map(Requirement, PROJECT["optional-dependencies"]["dev"])}
    assert extra.keys() == held.keys()
    assert all(one.specifier.contains(held[name]) for name, one in extra.items())


def test_the_version_is_the_changelogs() -> None:
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_tiny_model_is_in_the_checkout_or_beside_the_program(tmp_path: Path) -> None:
    assert ROOT / "assets" / "tiny" == TINY_FOLDER
    assert tiny_folder(tmp_path) == tmp_path / "framepack_tiny"


def test_an_installation_writes_nothing_where_pip_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "site-packages"
    program.mkdir()
    monkeypatch.setattr(places, "ROOT", program)
    folders = Folders.chosen(environment={"XDG_STATE_HOME": str(tmp_path / "state")})
    assert folders.outputs == tmp_path / "state" / "framepack" / "outputs"
    assert folders.weights == tmp_path / "state" / "framepack" / "hf_download"
    assert Folders.chosen(tmp_path / "data").outputs == tmp_path / "data" / "outputs"


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    own = ("PYTHONPATH", "FRAMEPACK_DATA", "XDG_STATE_HOME", "HF_HOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in own} | variables
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the files that git knows."""
    place = tmp_path_factory.mktemp("wheel")
    for name in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0"):
        if (ROOT / name).is_file() and not name.startswith((".venv", "tests/", "docs/")):
            (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / "source" / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", place]
    run(*build, place / "source", cwd=place)
    [made] = place.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_program_and_of_the_tiny_model(wheel: Path) -> None:
    assert wheel.name == f"framepack-{VERSION}-py3-none-any.whl"
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = run("git", "ls-files", "-z", "diffusers_helper", "assets/tiny", cwd=ROOT).split("\0")
    wanted = {name.replace("assets/tiny/", "framepack_tiny/") for name in tracked if name and (ROOT / name).is_file()}
    assert not wanted - inside
    assert {name.partition("/")[0] for name in inside} == {
        "diffusers_helper", "framepack_tiny", f"framepack-{VERSION}.dist-info",
    }  # fmt: skip


@pytest.mark.slow
def test_installed_outside_the_checkout_two_commands_make_a_video(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    [packages] = (tmp_path / "venv").glob("lib/python3*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # nothing is fetched
    programs = tmp_path / "venv" / "bin"
    shutil.copyfile(ROOT / "docs" / "pictures" / "page.png", home / "photo.png")

    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps", "--no-index"]
    run(*pip, wheel, cwd=home)
    generate = [programs / "framepack", "generate", "photo.png", "pan left", "--seconds", "1", "--steps", "2"]
    run(*generate, "--device", "cpu", "-o", "video.mp4", cwd=home, HOME=str(home))

    assert (home / "video.mp4").stat().st_size > 1000
    assert {path.name for path in home.iterdir()} <= {"photo.png", "video.mp4", ".local", ".cache", ".triton"}
    assert "--port" in run(programs / "framepack-page", "--help", cwd=home, HOME=str(home))
    assert not [path for path in packages.iterdir() if path.name in ("outputs", "cache", "logs", "run")]
