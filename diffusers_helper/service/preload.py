"""The models of the first video, loaded while nobody waits: what is worth it here, how far it is, what went wrong.

`Preload` works in the jobs' worker before the first job, so that a job that is started early simply waits for it; what
the page shows is a value, `Loading`. Nothing is downloaded, and where RAM is short nothing large is taken unasked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diffusers_helper.core.errors import CancelledError, FramePackError
from diffusers_helper.core.messages import Message
from diffusers_helper.memory.ram import Ram, free_ram
from diffusers_helper.model_files import Part, parts_for

if TYPE_CHECKING:
    from diffusers_helper.loading.components import Components

COMFORT = 4 * 1024**3
"""RAM that is left for the user's other programs, bytes, as long as nobody asked for a video."""

LARGE = 2_000_000_000
"""Bytes from which a part is not loaded ahead where RAM is short."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartLoading:
    """One part: its title, what is being done to it ("" before), and how much of that, in bytes."""

    title: str
    text: str = ""
    done: int = 0
    total: int = 0

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self.done / self.total if self.total else 0.0


@dataclass(frozen=True)
class Loading:
    """One moment of loading ahead.

    Attributes:
        active: it goes on; False before, after and without it.
        parts: all that is to be loaded, in order.
        note: why some of it is left for the first video; empty for all of it.
        error: why it ended early, as a sentence.
    """

    active: bool = False
    parts: tuple[PartLoading, ...] = ()
    note: str = ""
    error: str = ""


class Preload:
    """Loads ahead, once; any thread may read `now`, which is active from `expect` on."""

    def __init__(self) -> None:
        self.now = Loading()
        self._row: int | None = None

    def expect(self) -> None:
        """Say that `run` will be called, or `end`."""
        self.now = Loading(active=True)

    def run(self, components: Components, variant: str, check: Callable[[], None]) -> None:
        """Load what a video of `variant` needs; never raises. `check` may raise CancelledError, which ends it."""
        try:
            chosen, note = choose(components, variant)
            shown = [part for part in chosen if part.weights]
            self.now = Loading(True, tuple(PartLoading(part.title) for part in shown), note)
            for part in chosen:
                check()
                self._row = shown.index(part) if part.weights else None
                self.tell(Message("Loading {title}", title=part.title), 0, 0)
                components.load(part)
                self.tell(Message("Loaded {title}", title=part.title), 1, 1)
        except CancelledError:
            logger.info("Loading ahead was stopped")
        except FramePackError as error:
            logger.error("Loading ahead failed: %s", error, exc_info=error.__cause__)
            self._fail(components, str(error))
        except Exception:  # the page stays up; the first video meets it again, in a job that fails
            logger.exception("Loading ahead failed")
            self._fail(components, Message("Something unexpected went wrong; the log has the details."))
        finally:
            self.end()

    def end(self) -> None:
        """Nothing more is loaded; note and error stay."""
        self.now = replace(self.now, active=False)

    def tell(self, text: str, done: int, total: int) -> None:
        """Note how far the part that is being loaded is; a part without weights is not shown."""
        if self._row is not None:
            rows = list(self.now.parts)
            rows[self._row] = replace(rows[self._row], text=text, done=done, total=total)
            self.now = replace(self.now, parts=tuple(rows))

    def over(self) -> None:
        """Forget note and error: from now on jobs tell what happens."""
        self.now = Loading()

    def _fail(self, components: Components, sentence: str) -> None:
        self.now = replace(self.now, error=sentence)
        components.release_all()


def choose(components: Components, variant: str, ram: Callable[[], Ram] = free_ram) -> tuple[list[Part], str]:
    """The parts to load ahead, in the order of their use, and why others are not, if there are others.

    All for which there is room; else the small ones. Where weights swap, the text encoder is read from its files when
    a prompt is new, so nothing of it is loaded ahead.
    """
    wanted, needs = [], {}
    for part in parts_for((variant,)):
        folder, problems = components.source.inspect(part)
        if folder is None or problems:
            return [], Message("The models are downloaded and loaded with the first video.")
        if not components.placement.streams(part, components.policy):
            wanted.append(part)
            needs[part] = components.placement.ram_need(part, folder, components.policy)
    room = ram().available - COMFORT
    if sum(needs.values()) <= room:
        return wanted, ""
    small = [part for part in wanted if needs[part] < LARGE]
    note = Message(
        "The larger models are loaded with the first video: they take {need:.1f} GB of RAM, which other programs may "
        "want until then.",
        need=sum(needs[part] for part in wanted if part not in small) / 1e9,
    )
    return small if sum(needs[part] for part in small) <= room else [], note
