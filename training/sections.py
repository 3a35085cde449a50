"""Which latents of a clip a section reads and writes, taken from the product's own planners.

A *segment* is a stretch of latents of a long clip that begins with a section; the start picture's latent lies beside
it, and the pictures on its section borders, each encoded alone as a picture that a user gives. A pattern says, for one
section of one plan, which latents of the segment are the target and which the context.

An end picture or key picture is the last frame of the section that leads to it. So a video ends with the very picture
that it was to end with, and what follows a key picture goes on from it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from diffusers_helper.core.plan import LATENT_WINDOW, LINE, START, SectionPlan
from diffusers_helper.core.planning import plan_score
from diffusers_helper.core.score import Score, Stretch

SEGMENT_LATENTS = 32
"""A section, the 19 latents that it reads and the one between sections, in whole pieces of the autoencoder."""
BORDERS = 4
"""Section borders of a segment, the first frame's included, that are kept as pictures encoded alone."""
DEEPEST = 8
"""The last section at which a segment may begin."""
NOTHING, START_PICTURE, BORDER_PICTURE = -1, -2, -3
"""In place of a latent's number: zeros (nothing there yet), the start picture's latent, and that of the segment's first
border; the next borders have -4, -5, -6."""
LENGTHS = {1: 12, 2: 25, 3: 10, 4: 20, 5: 8, 6: 8, 8: 8, 12: 9}
"""Video lengths in sections, and how often training sees them."""


@dataclass(frozen=True)
class Pattern:
    """One section as training sees it: numbers of latents within the segment, and time indices for the model.

    Attributes:
        kind: "plain", or a name in KINDS.
        seen: which picture the image encoder sees: START_PICTURE or a border's.
    """

    kind: str
    variant: str
    seen: int
    target: tuple[int, ...]
    clean: tuple[int, ...]
    clean_2x: tuple[int, ...]
    clean_4x: tuple[int, ...]
    target_times: tuple[int, ...]
    clean_times: tuple[int, ...]
    clean_2x_times: tuple[int, ...]
    clean_4x_times: tuple[int, ...]

    @property
    def section(self) -> int:
        """Number of the sampled section, counted from the segment's first."""
        return (self.target[0] - 1) // LATENT_WINDOW

    @property
    def blind(self) -> bool:
        """Nothing but what lies before the section is there to go by, and that not next to it."""
        after = self.clean[1:] + self.clean_2x + self.clean_4x
        return self.variant == "original" and all(number == NOTHING for number in after)

    @property
    def reads(self) -> tuple[object, ...]:
        """All but its kind: what tells it from other patterns."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__ if name != "kind")


Weighted = tuple[list[Pattern], list[float]]


@cache
def patterns(variant: str, first: int) -> Weighted:
    """Every section that a segment beginning at section `first` holds with all that it reads, and their weights."""
    scores = [(Score(variant, (Stretch(count),)), weight / count) for count, weight in LENGTHS.items()]
    return _weighted("plain", scores, first)


def draw_pattern(variant: str, first: int, rng: random.Random) -> Pattern:
    """Draw a section from a segment that begins at section `first`."""
    found, weights = patterns(variant, first)
    return rng.choices(found, weights)[0]


def segment_starts() -> list[int]:
    """Sections at which segments begin that hold something for both variants."""
    return [first for first in range(DEEPEST + 1) if patterns("original", first)[0] and patterns("f1", first)[0]]


def _end() -> Iterator[tuple[Score, float]]:
    for count in range(1, 7):
        yield Score("original", (Stretch(count),), end=True), 1.0


def _landing() -> Iterator[tuple[Score, float]]:
    for count in range(1, 7):
        for landing in range(1, min(count, 2) + 1):
            yield Score("f1", (Stretch(count),), end=True, landing=landing), 1.0


def _key() -> Iterator[tuple[Score, float]]:
    for variant in ("original", "original", "f1"):
        for before, after in ((1, 1), (1, 2), (2, 1)):
            for end in (False, True):
                yield Score(variant, (Stretch(before), Stretch(after, "key")), end=end), 1.0


def _connect() -> Iterator[tuple[Score, float]]:
    for count, tail in ((1, 1), (1, 3), (1, 12), (1, 20), (2, 3), (2, 12), (3, 3), (3, 12)):
        after = ("after", tail)
        yield Score("original", (Stretch(count, "before", 1, clip=True),), tail=after), 2.0
        yield Score("original", (Stretch(count),), tail=after), 1.0
        yield Score("f1", (Stretch(count, "before", 10, clip=True),), tail=after), 1.0


def _extend() -> Iterator[tuple[Score, float]]:
    for count in (1, 2):
        yield Score("original", (Stretch(count, "before", 1, clip=True),)), 1.0
        for latents in (1, 10, 19):
            for anchor in ("last", "last", "first"):
                yield Score("f1", (Stretch(count, "before", latents, clip=True),), anchor=anchor), 1.0


def _before() -> Iterator[tuple[Score, float]]:
    for count in (1, 2):
        for tail in (3, 12, 20):
            yield Score("original", (Stretch(count, "", 0),), tail=("after", tail)), 1.0


DIRECTED = {
    "end": (_end, 0.3),
    "landing": (_landing, 0.3),
    "key": (_key, 0.4),
    "connect": (_connect, 0.2),
    "extend": (_extend, 0.12),
    "before": (_before, 0.08),
}
"""What a video may be given beside its start picture: scores with their weights, and how often training sees them.

How often is meant among the kinds that a clip has.
"""
WHOLE = ("end", "landing", "key", "extend")
"""Kinds that clips of one motion have."""
KINDS = ("plain", *DIRECTED, "change", "frame")
"""What a section is an example of: the last two are a section of a clip whose motion changes, and a single frame."""


@cache
def directed_patterns(kind: str, first: int) -> Weighted:
    """Sections of the DIRECTED `kind` that no video without extras has, in a segment beginning at section `first`.

    What follows a key picture and sees nothing beyond is left out, too: that is a video of its own.
    """
    found, weights = _weighted(kind, list(DIRECTED[kind][0]()), first)
    known = {pattern.reads for variant in ("original", "f1") for pattern in patterns(variant, first)[0]}
    kept = [
        (pattern, weight)
        for pattern, weight in zip(found, weights, strict=True)
        if pattern.reads not in known and not (kind == "key" and pattern.blind)
    ]
    return [pattern for pattern, _ in kept], [weight for _, weight in kept]


def draw_directed(first: int, rng: random.Random) -> Pattern:
    """Draw a section of a directed video from a segment that begins at section `first`."""
    return draw_of({kind: directed_patterns(kind, first) for kind in WHOLE}, rng)


def draw_of(kinds: Mapping[str, Weighted], rng: random.Random) -> Pattern:
    """Draw a kind that has anything, and one of its patterns."""
    names = [name for name, (found, _) in kinds.items() if found]
    found, weights = kinds[rng.choices(names, [DIRECTED[name][1] for name in names])[0]]
    return rng.choices(found, weights)[0]


@cache
def phase_patterns(first: int, change: int, later: bool) -> Weighted:
    """Sections before section `change` of the clip, or from there on, for clips whose motion changes at that border.

    A later section that sees nothing of the old motion is left out: nobody could tell where that led to.
    """
    both = [patterns(variant, first) for variant in ("original", "f1")]
    found = [
        (pattern, weight / sum(weights))
        for some, weights in both
        for pattern, weight in zip(some, weights, strict=True)
        if (first + pattern.section >= change) == later and not (later and pattern.blind)
    ]
    return [pattern for pattern, _ in found], [weight for _, weight in found]


def draw_phase(first: int, change: int, later: bool, rng: random.Random) -> Pattern:
    """Draw one of `phase_patterns`."""
    found, weights = phase_patterns(first, change, later)
    return rng.choices(found, weights)[0]


def _weighted(kind: str, scores: list[tuple[Score, float]], first: int) -> Weighted:
    weights: dict[Pattern, float] = defaultdict(float)
    for score, weight in scores:
        for pattern in _of_score(kind, score, first):
            weights[pattern] += weight
    return list(weights), list(weights.values())


def _of_score(kind: str, score: Score, first: int) -> Iterator[Pattern]:
    """The sections of a video that the segment has with all they read."""
    layout = _Layout(score, first)
    filled = {given.at + number for given in score.given for number in range(given.count)}
    for section in plan_score(score).sections:
        read = {f"clean_{factor}x": layout.read(section, factor, filled) for factor in (1, 2, 4)}
        read["target"] = [layout.place(position) for position in section.positions]
        filled.update(section.positions)
        local = {name: tuple(n for n in numbers if n is not None) for name, numbers in read.items()}
        if layout.seen is None or any(len(local[name]) < len(numbers) for name, numbers in read.items()):
            continue
        yield Pattern(
            kind=kind,
            variant=section.variant,
            seen=layout.seen,
            target=local["target"],
            clean=local["clean_1x"],
            clean_2x=local["clean_2x"],
            clean_4x=local["clean_4x"],
            target_times=section.latent_indices,
            clean_times=section.indices(1),
            clean_2x_times=section.indices(2),
            clean_4x_times=section.indices(4),
        )


@dataclass(frozen=True)
class _Layout:
    """Where the line of a score lies on a segment that begins at section `first` of its clip; None: not on it."""

    score: Score
    first: int

    @property
    def seen(self) -> int | None:
        """The picture that the image encoder sees: the start, or the frame at which the new part joins the given."""
        stretch = self.score.stretches[0]
        if stretch.given == START:
            return START_PICTURE
        if stretch.latents:
            return self._border(self._number(stretch.latents - 1))
        return self._border(self._number(self.score.end_position - 1))

    def read(self, section: SectionPlan, factor: int, filled: set[int]) -> list[int | None]:
        """What the section reads at `factor` while the positions in `filled` hold something."""
        found: list[int | None] = []
        for piece in section.context:
            if piece.factor == factor and piece.source == LINE:
                found += [self.place(position) if position in filled else NOTHING for position in piece.slot]
            elif piece.factor == factor:
                found.append(self._border(self._number(self.score.end_position - 1)))
        return found

    def place(self, position: int) -> int | None:
        """The latent at a position of the line."""
        if position == 0 and self.score.stretches[0].given == START:
            return START_PICTURE
        if position in self._keys:
            return self._border(self._number(position - 1))
        place = self._number(position) - LATENT_WINDOW * self.first
        return place if 0 <= place < SEGMENT_LATENTS else None

    @property
    def _keys(self) -> list[int]:
        """Positions of key pictures; on the clip they take no time."""
        return [span.first - 1 for span in self.score.spans[1:]]

    def _number(self, position: int) -> int:
        """The clip's latent at a position: latent 0 is the start picture's, a given clip lies where the segment begins.

        Where nothing is given in front, the first section does.
        """
        stretch = self.score.stretches[0]
        begin = 0 if stretch.given == START else LATENT_WINDOW * self.first + (not stretch.latents)
        return begin + position - sum(key <= position for key in self._keys)

    def _border(self, number: int) -> int | None:
        """The picture at the end of latent `number` of the clip, encoded alone."""
        border, rest = divmod(number - LATENT_WINDOW * self.first, LATENT_WINDOW)
        return BORDER_PICTURE - border if not rest and 0 <= border < BORDERS else None


def stacked(chosen: list[Pattern]) -> dict[str, np.ndarray]:
    """Patterns as arrays (B, n) by field, `seen` (B,), and their numbers in KINDS as `kind` (B,)."""
    fields = [name for name in Pattern.__dataclass_fields__ if name not in ("variant", "kind")]
    found = {name: np.array([getattr(pattern, name) for pattern in chosen]) for name in fields}
    return found | {"kind": np.array([KINDS.index(pattern.kind) for pattern in chosen])}
