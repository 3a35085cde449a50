"""Versions of everything that pyproject.toml asks for, for every Python, as uv resolves them: see scripts/lock."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
OF_CUDA = r"(nvidia-(?!ml-py)|cuda-|triton$)"
"""What torch brings along on some computers only: versions that hold, and no requirements."""
REQUIREMENTS = """\
# The exact versions that were tested together, as scripts/lock writes them. Python 3.11 to 3.13.
{direct}

# Reads HEIC photos, as phones take them, when installed: pillow-heif.

# Faster attention on some NVIDIA cards, when installed: requirements-hopper.txt (found by itself); sageattention,
# flash-attn, xformers (--attention).

# What the packages above bring along, held so that an installation next year is the same as today's.
{others}
"""
CONSTRAINTS = """\
# What the packages of requirements.txt bring along on some computers only; requirements.txt holds the rest. A line here
# installs nothing: it is the version that is taken where another package asks for one. scripts/lock writes it.

# Some versions of Python alone.
{pythons}

# PyTorch for NVIDIA cards, on Linux.
{cuda}
"""


def main(arguments: Sequence[str]) -> int:
    """Write both files, or with `--check` tell whether they would change; return the exit code."""
    uv, *options = arguments
    upgrade = [option for option in options if option == "--upgrade"]
    found = [resolved(uv, python, upgrade) for python in PYTHONS]
    for name, text in files(found, direct()).items():
        if (ROOT / name).read_text("utf-8") == text:
            continue
        if "--check" in options:
            sys.stderr.write(f"lock: {name} is not what pyproject.toml asks for; run scripts/lock.\n")
            return 1
        (ROOT / name).write_text(text, "utf-8")
        sys.stderr.write(f"lock: {name} is new.\n")
    return 0


def direct() -> list[str]:
    """Return the names in pyproject.toml, in their order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [re.split(r"[<>=]", one)[0] for one in project["dependencies"]]


def resolved(uv: str, python: str, options: Sequence[str]) -> dict[str, str]:
    """Return the version of every package, by its name as pip normalises it."""
    held = ROOT / ".cache" / "lock" / "held.txt"  # what is there is preferred
    held.write_text("".join((ROOT / name).read_text("utf-8") for name in ("requirements.txt", "constraints.txt")))
    command = [uv, "pip", "compile", "pyproject.toml", "--quiet", "--no-header", "--no-annotate"]
    platform = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    subprocess.run([*command, *platform, *options, "-o", held], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return dict(line.split("==") for line in held.read_text("utf-8").splitlines() if "==" in line)


def files(found: Sequence[dict[str, str]], names: Sequence[str]) -> dict[str, str]:
    """Return the texts by file; `found` are the versions for each Python, `names` what is asked for."""
    everything = {name: version.partition("+")[0] for versions in found for name, version in versions.items()}
    everywhere = set.intersection(*map(set, found))
    asked = {normalised(name): name for name in names}
    cuda = {name for name in everything if re.match(OF_CUDA, name)}

    def lines(wanted: set[str]) -> str:
        return "\n".join(f"{name}=={everything[name]}" for name in sorted(wanted))

    return {
        "requirements.txt": REQUIREMENTS.format(
            direct="\n".join(f"{name}=={everything[key]}" for key, name in asked.items()),
            others=lines(everywhere - cuda - asked.keys()),
        ),
        "constraints.txt": CONSTRAINTS.format(pythons=lines(everything.keys() - everywhere - cuda), cuda=lines(cuda)),
    }


def normalised(name: str) -> str:
    """Return a name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
