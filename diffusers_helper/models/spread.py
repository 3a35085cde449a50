"""How a sequence lies on processes: whole on one of them, or (see ulysses.py) a part on each of several."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import Coming, Heads, Kernels
from .sdpa import AttentionFunction

Lengths = Sequence[int] | None
"""Valid tokens of each sample, which come first; None where all are."""


class Projections(NamedTuple):
    """What attention is computed of.

    Attributes:
        values: (B, L, heads, D).
        queries, keys: compute streams that lie behind each other, not normalised yet.
    """

    values: Tensor
    queries: Callable[[], list[Heads]]
    keys: Callable[[], list[Heads]]


class Spread(Protocol):
    """What the blocks ask of it.

    A call of the transformer is `parts`, a run through the blocks from `begin` on, and `whole`. A run that cannot be
    recorded is begun once more.
    """

    @property
    def processes(self) -> int:
        """How many there are."""

    def parts(self, image: Tensor, text: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """This process' part of the image's tokens (B, L, dim), of the text's, and of the image's rotary table."""

    def begin(self) -> None:
        """Begin a run through the blocks, each of which attends once; all runs of all processes are alike."""

    def attend(
        self, attention: AttentionFunction, kernels: Kernels, projections: Projections, lengths: Lengths
    ) -> Callable[[], Tensor | Coming]:
        """Begin attention of this process' [image | text] over all tokens; see `prefix_attention`.

        `projections` are of L_part tokens, `lengths` those of the whole. What it returns is called once, as late as
        what comes before it can be computed, and gives (B, L_part, heads * D), which may be on its way.
        """

    def whole(self, image: Tensor) -> Tensor:
        """All image tokens (B, L, dim), of this process' part of them."""


class Whole:
    """One process has the whole sequence."""

    processes = 1

    def parts(self, image: Tensor, text: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What it was given."""
        return image, text, rope

    def begin(self) -> None:
        """See `Spread`."""

    def attend(
        self, attention: AttentionFunction, kernels: Kernels, projections: Projections, lengths: Lengths
    ) -> Callable[[], Tensor | Coming]:
        """See `Spread`; it is computed here."""
        q, k = (kernels.norm_rotate(streams()) for streams in (projections.queries, projections.keys))
        attended = prefix_attention(attention, q, k, projections.values, lengths)
        return lambda: attended

    def whole(self, image: Tensor) -> Tensor:
        """What it was given."""
        return image


WHOLE = Whole()


def prefix_attention(attention: AttentionFunction, q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> Tensor:
    """Attention of each sample over its own valid prefix: q, k, v (B, L, heads, D) -> (B, L, heads * D).

    `lengths` None means that all L tokens are valid. Padding gets zeros: no mask of L x L is ever made.
    """
    if lengths is None:
        return attention(q, k, v).flatten(2)
    samples = [attention(*(x[i : i + 1, :n] for x in (q, k, v))) for i, n in enumerate(lengths)]
    return torch.cat([F.pad(x.flatten(2), (0, 0, 0, q.shape[1] - x.shape[1])) for x in samples])
