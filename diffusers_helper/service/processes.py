"""Starting and ending processes where there are signals, and on Windows, where `terminate` gives no time to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import psutil

WINDOWS = sys.platform == "win32"


def detached(*, windows: bool = WINDOWS) -> Mapping[str, Any]:
    """Return Popen's arguments for a process that outlives this one and that Ctrl+C here does not reach."""
    if not windows:
        return MappingProxyType({"start_new_session": True})
    return MappingProxyType({"creationflags": _flags("CREATE_NEW_PROCESS_GROUP", "CREATE_NO_WINDOW")})


def own_group(*, windows: bool = WINDOWS) -> Mapping[str, Any]:
    """Return Popen's arguments for a child that `ask_to_end` reaches alone: on Windows Ctrl+Break goes to a group."""
    return MappingProxyType({"creationflags": _flags("CREATE_NEW_PROCESS_GROUP")} if windows else {})


def ask_to_end(process: subprocess.Popen[bytes] | psutil.Process, *, windows: bool = WINDOWS) -> None:
    """Ask a process of `own_group` to end in order: SIGTERM, on Windows Ctrl+Break."""
    if windows and hasattr(signal, "CTRL_BREAK_EVENT"):
        os.kill(process.pid, signal.CTRL_BREAK_EVENT)
    else:
        process.terminate()


def end_like_ctrl_c() -> None:
    """Let the signals that ask this process to end be a KeyboardInterrupt: SIGTERM and, on Windows, Ctrl+Break."""
    for name in ("SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)


def _flags(*names: str) -> int:
    """The sum of flags that only Windows' subprocess has."""
    return sum(getattr(subprocess, name, 0) for name in names)
