"""Imports run one way, as docs/architecture.md draws it, and importing does nothing else."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "diffusers_helper"
LAYERS = [  # from the ground up: a folder imports from itself and from those before it
    "core",
    "memory",
    "media",
    "model_files",
    "models",
    "lora",
    "k_diffusion",
    "pipelines",
    "encoders",
    "loading",
    "framepack",
    "generation",
    "jobs",
    "history",
    "presets",
    "service",
    "gradio",
    "app",
    "api",
    "commands",
    "__main__",
]
PROMISED = ["bucket_tools", "clip_vision", "hunyuan", "thread_utils", "utils"]
"""Modules beside the folders: names that scripts import from there. Nobody inside the package does."""
NEEDS = {f"{PACKAGE}.models.triton_kernels": "triton"}
"""What is imported only where a library is that not every computer has."""
HEAVY = """
heavy = ("torch", "transformers", "diffusers", "huggingface_hub", "gradio")
print([name for name in heavy if name in sys.modules])"""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
TORCH_FREE = sorted(module for module in FILES if module.startswith(f"{PACKAGE}.core"))


def layer(module: str) -> str:
    return module.split(".")[1]


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


@pytest.mark.parametrize("module", sorted(FILES.keys() - {PACKAGE}))
def test_imports_run_one_way(module: str) -> None:
    for imported in set(own_imports(module)) - {PACKAGE}:
        assert layer(imported) not in PROMISED, f"{imported} re-exports, for scripts outside"
        if layer(module) not in PROMISED:
            assert LAYERS.index(layer(imported)) <= LAYERS.index(layer(module)), f"{module} imports {imported}"


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {module: set(own_imports(module)) - {module, PACKAGE} for module in FILES}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_every_folder_has_a_layer() -> None:
    assert {layer(module) for module in FILES if module != PACKAGE} == {*LAYERS, *PROMISED}


def test_the_package_itself_imports_late_alone() -> None:
    assert sorted(imports(PACKAGE)) == [f"{PACKAGE}.api.FramePack", "typing.Any"]


@pytest.mark.parametrize("module", [module for module in FILES if module.startswith(f"{PACKAGE}.gradio")])
def test_a_file_of_the_page_has_one_idea(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.parametrize("module", [module for module in FILES if module.startswith(f"{PACKAGE}.gradio")])
def test_the_page_counts_no_places(module: str) -> None:
    """Values for controls go by names (`listeners.fills`): nothing is repeated, or cut out, for a number of them."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            assert not any(isinstance(side, ast.List) for side in (node.left, node.right)), f"{module}:{node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "len":
            assert ast.unparse(node.args[0]) != "SETTINGS", f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", FILES)
def test_gradio_stays_in_its_folder_and_nothing_prints(module: str) -> None:
    if not module.startswith(f"{PACKAGE}.gradio"):
        assert not [name for name in imports(module) if name.split(".")[0] == "gradio"]
    calls = [node.func for node in ast.walk(ast.parse(FILES[module].read_text())) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def import_all(modules: list[str], then: str) -> subprocess.CompletedProcess[str]:
    """Import `modules` in a fresh process that reports every connection it opens; then run `then`."""
    program = f"""
import importlib, sys
sys.addaudithook(lambda event, args: event in ("socket.connect", "socket.getaddrinfo") and print(event, args))
for module in {modules}:
    importlib.import_module(module)
{then}"""
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_torch_free_layer_imports_no_torch() -> None:
    done = import_all(TORCH_FREE, "print([name for name in ('torch', 'numpy', 'gradio') if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.slow
def test_the_package_and_its_class_cost_nothing_to_import() -> None:
    done = import_all([PACKAGE], f"print('{PACKAGE}.api' in sys.modules); from {PACKAGE} import FramePack\n{HEAVY}")
    assert (done.stdout, done.stderr) == ("False\n[]\n", "")


@pytest.mark.slow
def test_the_programs_choose_their_environment_before_any_library_reads_it() -> None:
    done = import_all([f"{PACKAGE}.app.launch", f"{PACKAGE}.commands.cli"], HEAVY)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.slow
def test_importing_everything_prints_nothing_and_touches_no_device_or_network() -> None:
    left_out = tuple(folder for folder, library in NEEDS.items() if find_spec(library) is None)
    modules = [module for module in FILES if not module.endswith("__main__") and not module.startswith(left_out)]
    done = import_all(modules, "import torch; assert not torch.cuda.is_initialized()")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
