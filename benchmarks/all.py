"""Every measurement that needs a GPU, in one go of about fifteen minutes: the most important ones first.

`python -m benchmarks.all --folder DIR --output DIR` needs 60 GB of disk for full-size models of random weights, 64 GB
of RAM and a card of 80 GB. Each measurement has a time limit, and its output is in a file of its own as it comes; the
JSON lines are printed at the end. `--tiny` tries the same anywhere.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.memory import VARIANT
from diffusers_helper.model_files.parts import transformer_part

GPU_TESTS = [
    "previewer",
    "kernels",
    "section_context",
    "vae_decoder",
    "attention",
    "components",
    "memory",
    "cuda",
    "gguf",
]


Runs = dict[str, tuple[list[str], int]]
"""Arguments of Python, and the seconds that it may take, by the measurement's name."""


def main(argv: list[str] | None = None, listed: Callable[[argparse.Namespace], Runs] | None = None) -> None:
    """Run what was asked for of what is `listed`; a measurement that fails or is late stops no other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the full-size model is, or is written to")
    parser.add_argument("--output", type=Path, required=True, help="where the results go")
    parser.add_argument("--tiny", action="store_true", help="the tiny model")
    parser.add_argument("--only", nargs="*", default=[], help="these alone")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    wanted = {name: run for name, run in (listed or runs)(args).items() if not args.only or name in args.only}
    beside = {name: wanted.pop(name) for name in ("files", "tests") if name in wanted}  # no clock runs in these
    started = {name: start(command, args.output / f"{name}.log") for name, (command, _) in beside.items()}
    for name, process in started.items():
        finish(name, process, beside[name][1])
    for name, (command, seconds) in wanted.items():
        finish(name, start(command, args.output / f"{name}.log"), seconds)
    for name in wanted:
        lines = (args.output / f"{name}.log").read_text().splitlines()
        sys.stdout.writelines(f"{line}\n" for line in lines if line.startswith("{"))


def runs(args: argparse.Namespace) -> Runs:
    """Name -> arguments of Python, and the seconds that it may take."""
    part = transformer_part(VARIANT)
    weights = args.folder / part.repository / part.folder
    tests = ["-m", "pytest", "-p", "no:cacheprovider", "-q", "--gpu", "-m", "gpu"]
    tiny = ["--tiny"] * args.tiny
    return {
        "files": (["-m", "benchmarks.model_folder", str(args.folder), VARIANT] if not args.tiny else ["-c", ""], 120),
        "tests": ([*tests, *(f"tests/test_{name}.py" for name in GPU_TESTS)], 120),
        "memory": (
            ["-m", "benchmarks.memory", *(tiny or ["--folder", str(args.folder)]), "--steps", "4",
             "--output", str(args.output / "memory.json")], 600,
        ),
        "timeline": (["-m", "benchmarks.timeline", "--steps", "4" if args.tiny else "10", *tiny], 200),
        "loading": (
            ["-m", "benchmarks.loading", "--folder", str(weights),
             "--ways", "buffers" if args.tiny else "pinned", *tiny], 90,
        ),
    }  # fmt: skip


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Begin one run; what it prints goes to `log`."""
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, "-u", *arguments], stdout=file, stderr=subprocess.STDOUT)


def finish(name: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for it, and end it when it is late."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    sys.stdout.write(f"{name}: {'done' if code == 0 else f'failed ({code})'}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
