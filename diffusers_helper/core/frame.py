"""A single frame as a plan: one section of one latent frame, which the original's weights sample.

Those weights make one frame at a time index of its own, 9 where nothing else is known, from text alone or from control
pictures: the START picture at time 0, and a second one, END, in the place of what would follow at time 10.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal, get_args

from diffusers_helper.core.plan import (
    CLEAN_2X,
    CLEAN_4X,
    END,
    LATENT_WINDOW,
    LINE,
    START,
    ContextSlice,
    Given,
    SectionPlan,
    VideoPlan,
)
from diffusers_helper.core.variants import ORIGINAL

FRAME_TIME, MAX_FRAME_TIME = 9, 40
Slot = Literal["post", "2x", "4x"]
SLOTS: tuple[Slot, ...] = get_args(Slot)
"""What the model sees besides the control picture, all of it empty: a later latent, history at half and a quarter."""
_AFTER = 1 + LATENT_WINDOW
"""Time of the later latent."""


def frame_plan(time: int = FRAME_TIME, *, second: bool = False, slots: Collection[str] = SLOTS) -> VideoPlan:
    """Plan a single frame at the time index `time`.

    Args:
        time: 1 to `MAX_FRAME_TIME`.
        second: there is a second control picture.
        slots: those of `SLOTS` that the model sees; a second control picture is seen without "post", too.
    """
    section = SectionPlan(
        index=0,
        output_index=0,
        variant=ORIGINAL.name,
        positions=range(time, time + 1),
        latent_indices=(time,),
        context=tuple(_context(second, slots)),
        decode=range(time, time + 1),
    )
    return VideoPlan(ORIGINAL.name, 1, grows_at_front=True, given=(Given(START, 0),), sections=(section,))


def _context(second: bool, slots: Collection[str]) -> Iterator[ContextSlice]:
    at_half = range(_AFTER + 1, _AFTER + 1 + CLEAN_2X)
    at_quarter = range(at_half.stop, at_half.stop + CLEAN_4X)
    if "4x" in slots:
        yield ContextSlice(LINE, 4, at_quarter, tuple(at_quarter))
    if "2x" in slots:
        yield ContextSlice(LINE, 2, at_half, tuple(at_half))
    yield ContextSlice(LINE, 1, range(1), (0,))
    if second:
        yield ContextSlice(END, 1, range(1), (_AFTER,))
    elif "post" in slots:
        yield ContextSlice(LINE, 1, range(_AFTER, _AFTER + 1), (_AFTER,))
