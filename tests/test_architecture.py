"""Imports run one way, as docs/architecture.md draws it, and importing does nothing else."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "diffusers_helper"
LAYERS = [  # a module imports from its own layer and from those above; a name stands for all that is in it
    "framepack.request framepack.planning framepack.variants framepack.events framepack.errors framepack.background "
    "framepack.settings framepack.numerics "
    "bucket_tools thread_utils texts",
    "models k_diffusion pipelines framepack.history framepack.interrupt media hunyuan clip_vision memory "
    "loading.embedding_cache loading.tensor_file",
    "model_files loading",
    "framepack.engine framepack.decoding framepack.postprocess framepack.conditions framepack.generation "
    "framepack.checkpoint framepack.room",
    "jobs",
    "gradio service",
    "api commands service.launch service.instances service.keeper",
    "__main__",
]
LEVEL = {f"{PACKAGE}.{name}": level for level, names in enumerate(LAYERS) for name in names.split()}
TORCH_FREE = sorted(f"{PACKAGE}.{name}" for name in LAYERS[0].split())
NEEDS = {f"{PACKAGE}.models.triton_kernels": "triton"}
"""Modules that are imported only where a library is that not every computer has."""
HEAVY = """
heavy = ("torch", "transformers", "diffusers", "huggingface_hub", "gradio")
print([name for name in heavy if name in sys.modules])"""
FOR_SCRIPTS_OUTSIDE = f"{PACKAGE}.utils"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
PACKAGES = {PACKAGE, f"{PACKAGE}.framepack"}
"""Folders that are no layer: their own files hold a docstring and, late, what is imported when it is asked for."""
LATE = {PACKAGE: [f"{PACKAGE}.api.FramePack", "typing.Any"]}


def level(module: str) -> int:
    names = [module.rsplit(".", drop)[0] for drop in range(module.count(".") + 1)]
    found = [LEVEL[name] for name in names if name in LEVEL]
    assert found, f"{module} has no place in LAYERS"
    return found[0]


def imports(module: str) -> Iterator[str]:
    """Everything that a module imports, wherever in its file the statement stands."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: package.count(".") + 2 - node.level]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            yield from (f"{origin}.{name.name}" for name in node.names)


def own_imports(module: str) -> Iterator[str]:
    """The modules of this package that a module imports."""
    for name in imports(module):
        found = name if name in FILES else name.rpartition(".")[0]
        if found in FILES:
            yield found


@pytest.mark.parametrize("module", sorted(FILES.keys() - PACKAGES - {FOR_SCRIPTS_OUTSIDE}))
def test_imports_run_one_way(module: str) -> None:
    for imported in set(own_imports(module)) - PACKAGES:
        assert imported != FOR_SCRIPTS_OUTSIDE, "it re-exports, for scripts outside"
        assert level(imported) <= level(module), f"{module} imports {imported}"


@pytest.mark.parametrize("module", sorted(PACKAGES))
def test_packages_without_a_layer_import_nothing(module: str) -> None:
    assert sorted(imports(module)) == LATE.get(module, [])


@pytest.mark.parametrize("module", FILES)
def test_gradio_stays_in_its_folder_and_nothing_prints(module: str) -> None:
    if not module.startswith(f"{PACKAGE}.gradio"):
        assert not [name for name in imports(module) if name.split(".")[0] == "gradio"]
    calls = [node.func for node in ast.walk(ast.parse(FILES[module].read_text())) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def import_all(modules: list[str], then: str) -> subprocess.CompletedProcess[str]:
    """Import ``modules`` in a fresh process that reports every connection it opens; then run ``then``."""
    program = f"""
import importlib, sys
sys.addaudithook(lambda event, args: event in ("socket.connect", "socket.getaddrinfo") and print(event, args))
for module in {modules}:
    importlib.import_module(module)
{then}"""
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_the_torch_free_layer_imports_no_torch() -> None:
    done = import_all(TORCH_FREE, "print([name for name in ('torch', 'numpy', 'gradio') if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert all(module.rpartition(".")[2] in (ROOT / "scripts/check").read_text() for module in TORCH_FREE)


def test_the_package_and_its_class_cost_nothing_to_import() -> None:
    done = import_all([PACKAGE], f"print('{PACKAGE}.api' in sys.modules); from {PACKAGE} import FramePack\n{HEAVY}")
    assert (done.stdout, done.stderr) == ("False\n[]\n", "")


def test_the_programs_choose_their_environment_before_any_library_reads_it() -> None:
    done = import_all([f"{PACKAGE}.service.launch", f"{PACKAGE}.commands.cli"], HEAVY)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_importing_everything_prints_nothing_and_touches_no_device_or_network() -> None:
    left_out = {module for module, library in NEEDS.items() if find_spec(library) is None}
    modules = [module for module in FILES if not module.endswith("__main__") and module not in left_out]
    done = import_all(modules, "import torch; assert not torch.cuda.is_initialized()")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
