"""Who asks for the history, and for what of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Any

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.words import folded
from diffusers_helper.history.entry import Entry

PAGE = 24
"""Rows of a page."""
MOST_WORDS, MOST_CHARACTERS, MOST_PAGES = 8, 200, 100_000
STATES = ("done", "cancelled", "failed", "interrupted")
"""What a row's state can be; those that wait or run are in the queue."""
UNFINISHED = "unfinished"
"""All states but "done"."""
_UNGUESSED = re.compile(r"\d{8}_\d{6}_[0-9a-f]{16}")
"""An id of `jobs.job.new_job_id`."""


@dataclass(frozen=True)
class Viewer:
    """Whose history it is.

    Attributes:
        client_id: the browser that asks; empty for a script.
        user: who is signed in; empty where nobody has to. Then the browser does not count.
        local: it is this computer that asks, and what nobody in particular made is to be seen, too.
        known: the id of a job, which is the right to it where nobody signs in; empty for none.
    """

    client_id: str = ""
    user: str = ""
    local: bool = False
    known: str = ""

    def knowing(self, job_id: str) -> Viewer:
        """Return the same with the right that an id gives: one that nobody can guess."""
        return replace(self, known=job_id if _UNGUESSED.fullmatch(job_id) and not self.user else "")

    def condition(self) -> tuple[str, list[Any]]:
        """Return what limits a search to this viewer's own, as SQL and its values."""
        if self.user:
            return "owner = ?", [self.user]
        found, values = [], []
        if self.client_id:
            found, values = ["client_id = ?"], [self.client_id]
        if self.local:
            found.append("open")
        return f"({' OR '.join(found) or '0'})", values

    def may_see(self, entry: Entry) -> bool:
        """Tell the same of one row; the right of an id counts, too."""
        if self.user:
            return entry.owner == self.user
        own = bool(self.client_id) and entry.client_id == self.client_id
        return own or (self.local and entry.open) or (bool(self.known) and entry.id == self.known)


EVERYBODY = Viewer(user="\0")
"""Whoever may read the folder itself: the command line."""


@dataclass(frozen=True)
class Search:
    """What is wanted of the history, the newest first.

    Attributes:
        words: all of them have to be in the prompt, the photo's name or the file's.
        since, until: seconds since the epoch; from the first on and before the second.
        variant, state: empty for all; the state may be "unfinished".
        rating: at least so many stars.
        starred: only those.
        deleted: those in the trash, and no others.
        page: from 1.
    """

    words: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    variant: str = ""
    state: str = ""
    rating: int = 0
    starred: bool = False
    deleted: bool = False
    page: int = 1

    @classmethod
    def asked(cls, values: Mapping[str, Any]) -> Search:
        """Read what a page or a script asks for; raises SettingsError, naming what is wrong.

        `words` is a text, `since` and `until` are days such as 2026-11-28, both included.
        """
        text, rating, page = values.get("words") or "", values.get("rating") or 0, values.get("page") or 1
        if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
            raise _wrong("words")
        if not _whole(rating, 5):
            raise _wrong("rating")
        if not _whole(page, MOST_PAGES):
            raise _wrong("page")
        state, variant = values.get("state") or "", values.get("variant") or ""
        if state not in ("", UNFINISHED, *STATES):
            raise _wrong("state")
        if variant not in ("", "original", "f1"):
            raise _wrong("variant")
        return cls(
            words=tuple(folded(text).split()[:MOST_WORDS]),
            since=_day("since", values.get("since")),
            until=_day("until", values.get("until"), timedelta(days=1)),
            variant=variant,
            state=state,
            rating=int(rating),
            starred=values.get("starred") is True,
            deleted=values.get("deleted") is True,
            page=max(int(page), 1),
        )

    def condition(self) -> tuple[str, list[Any]]:
        """Return what limits a search to this, as SQL and its values."""
        states = (self.state,) if self.state in STATES else STATES[1:] if self.state else STATES
        parts = [f"state IN ({', '.join('?' * len(states))})", "deleted > 0" if self.deleted else "deleted = 0"]
        values: list[Any] = [*states]
        for column, value in (
            ("variant = ?", self.variant or None),
            ("at >= ?", self.since),
            ("at < ?", self.until),
            ("rating >= ?", self.rating or None),
            ("starred = ?", True if self.starred else None),
        ):
            if value is not None:
                parts.append(column)
                values.append(value)
        parts += ["instr(text, ?) > 0"] * len(self.words)
        return " AND ".join(["NOT missing", *parts]), [*values, *self.words]


def _whole(value: object, most: int) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= most and float(value).is_integer()  # type: ignore[operator,arg-type]


def _day(name: str, value: object, later: timedelta = timedelta()) -> float | None:
    if value in (None, ""):
        return None
    try:
        return datetime.combine(date.fromisoformat(str(value)), time()).astimezone().timestamp() + later.total_seconds()
    except (ValueError, OverflowError, OSError):
        raise _wrong(name) from None


def _wrong(name: str) -> SettingsError:
    return SettingsError(Message("The history cannot be searched by this value of {name}.", name=name))
