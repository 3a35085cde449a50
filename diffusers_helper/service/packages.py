"""What a program says when it is started with a Python that has not got its packages, and how it imports much.

Nothing is imported for it.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming_setup() -> Iterator[None]:
    """End the program with one sentence where an import inside fails because this Python does not fit."""
    root = Path(__file__).resolve().parents[2]
    advice = f"Make the environment with {root / 'scripts' / 'setup'}, then start ./framepack or ./run_gradio.sh."
    if sys.version_info < (3, 11):  # noqa: UP036 - older ones come as far as this
        sys.exit(f"This is Python {sys.version.split()[0]}, and 3.11 to 3.13 is needed. {advice}")
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "diffusers_helper"):
            raise
        sys.exit(f"The package {package} is missing or broken in this Python ({sys.executable}). {advice}")


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage inside: imports make a million objects that stay, and a look among them takes ever longer."""
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked:
            gc.enable()
