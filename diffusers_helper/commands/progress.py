"""How far the work is, on stderr: a bar on a terminal, lines in a log."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

from tqdm import tqdm


class ProgressBar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar on a terminal; where stderr is none, a line for each new text and for each tenth that is done.

    Args:
        settings: those of tqdm.

    Attributes:
        silence: seconds after which a log gets a text again of which only the numbers have changed.
    """

    silence = 60.0

    def __init__(self, **settings: Any) -> None:
        super().__init__(dynamic_ncols=True, disable=not sys.stderr.isatty(), **settings)
        if self.disable:  # tqdm sets and shows nothing then
            self.desc, self._tenths, self._told = settings.get("desc", ""), 0, 0.0

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` more."""
        if not self.disable:
            shown: bool | None = super().update(n)
            return shown
        self.n += n or 0
        tenths = int(10 * self.n / self.total) if self.total else 0
        if tenths > self._tenths:
            self._tenths = tenths
            self._say(f"{self.desc}: {10 * tenths}%")
        return None

    def set_description_str(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """Say what is being done."""
        if not self.disable:
            super().set_description_str(desc, refresh)
            return
        before, self.desc = self.desc, desc or ""
        if _words(self.desc) != _words(before) or time.monotonic() > self._told + self.silence:
            self._say(self.desc)

    def _say(self, text: str) -> None:
        self._told = time.monotonic()
        self.write(text, file=sys.stderr)


def _words(text: str) -> str:
    return re.sub(r"[\d.,]+", "", text)
