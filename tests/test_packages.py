"""Everything that an installation brings along is held to a version, on every computer that is supported."""

import gc
import importlib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from diffusers_helper.service.packages import importing, naming_setup

ROOT = Path(__file__).parents[1]
OF_TORCH_WITH_CUDA = {
    "cuda-bindings",
    "cuda-pathfinder",
    "cuda-toolkit",
    "triton",
    *(
        f"nvidia-{name}"
        for name in ("cublas", "cufft", "cufile", "curand", "cusolver", "cusparse", "nvjitlink", "nvtx")
    ),
    *(f"nvidia-cuda-{name}" for name in ("cupti", "nvrtc", "runtime")),
    *(f"nvidia-{name}-cu13" for name in ("cudnn", "cusparselt", "nccl", "nvshmem")),
}
"""What the usual build of torch 2.13.0 and cuda-toolkit 13.0.3 ask for on Linux; the tests' own build asks for none."""
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
    "arm": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64", "os_name": "posix"},
    "mac": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
}


def listed(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def brought_along(todo: list[Requirement], environment: dict[str, str]) -> dict[str, Requirement]:
    """Every package that an installation of `todo` makes, by name."""
    found: dict[str, Requirement] = {}
    seen: set[tuple[str, str]] = set()
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        found.setdefault(name, one)
        for extra in {"", *one.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            try:
                wanted = map(Requirement, requires(one.name) or [])
            except PackageNotFoundError:  # not for this computer: its own needs are in OF_TORCH_WITH_CUDA
                continue
            todo += [w for w in wanted if not w.marker or w.marker.evaluate(environment | {"extra": extra})]
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_everything_that_comes_along_has_its_version(python: str, platform: str) -> None:
    environment = PLATFORMS[platform] | {"python_version": python, "python_full_version": f"{python}.1"}
    held = {
        canonicalize_name(one.name): one for name in ("requirements.txt", "constraints.txt") for one in listed(name)
    }
    found = brought_along(listed("requirements.txt"), environment)
    assert found.keys() <= held.keys()
    for name, one in found.items():
        version = str(held[name].specifier).removeprefix("==")
        assert one.specifier.contains(version), f"{one} does not allow {version}"


def test_what_torch_brings_along_for_cuda_is_held_and_not_asked_for() -> None:
    held, asked = (
        {canonicalize_name(one.name) for one in listed(f"{name}.txt")} for name in ("constraints", "requirements")
    )
    assert set(OF_TORCH_WITH_CUDA) <= held
    assert not held & asked


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (ModuleNotFoundError("No module named 'pydantic'", name="pydantic"), SystemExit),
        (ImportError("libatomic.so.1: cannot open shared object file", name="torch._C"), SystemExit),
        (ModuleNotFoundError("No module named 'diffusers_helper.no'", name="diffusers_helper.no"), ModuleNotFoundError),
        (ImportError("without a name"), ImportError),
    ],
)
def test_only_packages_that_are_missing_become_a_sentence(error: ImportError, ends: type[BaseException]) -> None:
    with pytest.raises(ends) as ended, naming_setup():
        raise error
    if ends is SystemExit:
        assert str(error.name).partition(".")[0] in str(ended.value)


def test_no_garbage_is_looked_for_among_imports_and_again_afterwards():
    looked = []
    with pytest.raises(ModuleNotFoundError), importing():
        looked.append(gc.isenabled()) or importlib.import_module("no_such_module")
    assert looked == [False]
    assert gc.isenabled()
    with importing(), importing():
        pass
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled(), "who turned it off has it off"
    finally:
        gc.enable()
