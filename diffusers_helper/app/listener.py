"""Who hears now of what takes long: the job in hand, or the page while models are loaded ahead."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from diffusers_helper.core.messages import Message
from diffusers_helper.model_files import readable_progress

Check = Callable[[], None]


class Listener:
    """Passes on what downloading and loading tell, for models that outlive whoever waits for them.

    Each call first asks whether the work is still wanted: that check may raise CancelledError.
    """

    def __init__(self) -> None:
        self._check: Check = _nothing
        self._tell: Callable[[str, int, int], None] = _nothing

    def be(self, check: Check, tell: Callable[[str, int, int], None]) -> None:
        """Pass everything to `tell` from now on: what is done, how many bytes of it, and those in all."""
        self._check, self._tell = check, tell

    def be_job(self, check: Check, report: Callable[[str], None]) -> None:
        """Pass everything to `report` from now on, as sentences."""
        self.be(check, partial(_as_sentence, report))

    def downloading(self, title: str, done: int, total: int) -> None:
        """Hear that `done` of `total` bytes of a part are here."""
        self.loading(Message("Downloading {part}", part=title), done, total)

    def loading(self, text: str, done: int, total: int) -> None:
        """Hear that what `text` says is done for `done` of `total` bytes."""
        self._check()
        self._tell(text, done, total)


def _as_sentence(report: Callable[[str], None], text: str, done: int, total: int) -> None:
    report(Message("{text}: {done} of {total}", text=text, **readable_progress(done, total)))


def _nothing(*_told: object) -> None:
    pass
