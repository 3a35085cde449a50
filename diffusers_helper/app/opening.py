"""Opens the program of a process; torch, which takes seconds to import, comes only with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from diffusers_helper.service.config import RuntimeConfig
from diffusers_helper.service.packages import importing

if TYPE_CHECKING:
    from diffusers_helper.app.program import Program

OpenProgram = Callable[[RuntimeConfig, str], "Program"]
"""From the settings and the name of a variant to the program; see `app.program.Program`, with its errors."""


def open_program(config: RuntimeConfig, variant: str) -> Program:
    """Return the program of this process."""
    with importing():
        from diffusers_helper.app.program import Program

    return Program(config, variant)
