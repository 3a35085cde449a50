"""How words of people are compared."""

from __future__ import annotations

import unicodedata


def folded(text: str) -> str:
    """Return `text` as texts are compared: whatever the case and the width of its letters."""
    return unicodedata.normalize("NFKC", text).casefold()
