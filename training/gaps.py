"""Gaps: sections of a clip that lead to a given picture or clip, from which another motion goes on at its full speed.

In use nothing else is known of such sections: what goes before them may be in full motion, how far they have to get
only their two sides tell, and what follows began there as a video of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from diffusers_helper.core.plan import LATENT_WINDOW
from training.sections import BORDER_PICTURE, START_PICTURE, Pattern, Weighted, directed_patterns, draw_of

LEADING = ("end", "landing", "key")
"""Kinds that lead to a given picture: clips with a gap have them, too."""
JOINING = ("connect", "before")
"""Kinds that lead to a given clip, which was encoded by itself."""


@dataclass(frozen=True)
class Gap:
    """Sections of a clip that lead to a motion that begins anew; what goes before them has its own motion, too.

    Attributes:
        first: section at which the segment begins.
        opens: the gap's first section.
        closes: the section after it.
        joined: whether the rest is a given clip: encoded by itself, from the frame after the gap on.
    """

    first: int
    opens: int
    closes: int
    joined: bool

    @property
    def joint(self) -> int:
        """The segment's latent with which the rest begins."""
        return LATENT_WINDOW * (self.closes - self.first) + 1

    def holds(self, pattern: Pattern) -> bool:
        """See `gap_patterns`."""
        before, *after = (*pattern.clean, *pattern.clean_2x, *pattern.clean_4x)
        begin = LATENT_WINDOW * (self.opens - self.first)
        pictures = {START_PICTURE, BORDER_PICTURE - (self.opens - self.first)}
        beyond = before >= pattern.target[0]
        ends = {self.joint} if self.joined else {self.joint - 1, BORDER_PICTURE - (self.closes - self.first)}
        return (
            pattern.variant == "original"
            and self.opens <= self.first + pattern.section < self.closes
            and (before == self.joint if beyond else before >= begin or before in pictures)
            and not ends.isdisjoint(after)
        )


PICTURE_GAPS = tuple(Gap(0, *ends, joined=False) for ends in ((0, 1), (0, 1), (0, 2), (1, 2), (1, 2), (1, 3), (2, 3)))
"""Gaps before given pictures."""
CLIP_GAPS = tuple(
    Gap(first, first + opens, first + closes, joined=True)
    for first in (0, 1, 1, 2)
    for opens, closes in ((0, 1), (0, 1), (0, 2), (1, 2))
)
"""Gaps before given clips."""


@cache
def gap_patterns(kind: str, gap: Gap) -> Weighted:
    """The original's sections of the DIRECTED `kind` in the gap that see where it leads to, and no other motion's end.

    They read what the gap begins with, or the start, and the given picture, the given clip or the gap's last latent.
    """
    found, weights = directed_patterns(kind, gap.first)
    kept = [(pattern, weight) for pattern, weight in zip(found, weights, strict=True) if gap.holds(pattern)]
    return [pattern for pattern, _ in kept], [weight for _, weight in kept]


def draw_in_gap(gap: Gap, rng: random.Random) -> Pattern:
    """Draw a section of the gap."""
    return draw_of({kind: gap_patterns(kind, gap) for kind in (JOINING if gap.joined else LEADING)}, rng)
