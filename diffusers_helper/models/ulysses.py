"""Ulysses: a sequence spread over the GPUs of a group (Jacobs et al., arXiv 2309.14509), here one of uneven parts.

Every process holds a part of the image's tokens and a part of the text's, so all but attention is a process' own work.
For attention they exchange: everyone gets all tokens, of its share of the heads, and gives their results back. Keys may
come in any order, so the whole is [image 0 | text 0 | image 1 | text 1 | ...]. Nothing is padded, nothing masked: how
long each part is follows from the lengths of the whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, distributed

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message

from .exchange import Exchange
from .sdpa import AttentionFunction
from .spread import Lengths, prefix_attention


def shares(length: int, processes: int) -> list[int]:
    """Return how many of `length` tokens each process has: one more for the first ones where it does not come out."""
    base, more = divmod(length, processes)
    return [base + (process < more) for process in range(processes)]


@dataclass(frozen=True)
class _Layout:
    """How many tokens of the image and of the text each process has."""

    image: list[int]
    text: list[int]

    @property
    def both(self) -> list[int]:
        return [image + text for image, text in zip(self.image, self.text, strict=True)]

    def order(self, device: torch.device) -> Tensor:
        """Where the tokens of [image | text] are in the order of the processes."""
        starts = [0, *accumulate(self.both)]
        images = [torch.arange(at, at + n, device=device) for at, n in zip(starts, self.image, strict=False)]
        texts = [
            torch.arange(at + image, at + image + n, device=device)
            for at, image, n in zip(starts, self.image, self.text, strict=False)
        ]
        return torch.cat([*images, *texts])


class Ulysses:
    """A `Spread` over the processes of a group.

    Args:
        group: of as many as divide the model's heads.
        exchange: between them.
    """

    def __init__(self, group: distributed.ProcessGroup, exchange: Exchange) -> None:
        self._group = group
        self._exchange = exchange
        self._rank = distributed.get_rank(group)
        self.processes = distributed.get_world_size(group)
        self._layout = _Layout([], [])

    @property
    def hides(self) -> bool:
        """See `Spread`."""
        return self._exchange.hides

    def parts(self, image: Tensor, text: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Spread`."""
        self._layout = _Layout(shares(image.shape[1], self.processes), shares(text.shape[1], self.processes))
        of_image, of_text = self._layout.image, self._layout.text
        return (
            image.split(of_image, dim=1)[self._rank],
            text.split(of_text, dim=1)[self._rank],
            rope.split(of_image, dim=1)[self._rank],
        )

    def attend(
        self, attention: AttentionFunction, q: Tensor, k: Tensor, v: Tensor, lengths: Lengths
    ) -> Callable[[], Tensor]:
        """See `Spread`."""
        batch, rows, heads, size = q.shape
        mine, rest = divmod(heads, self.processes)
        if rest:
            raise SettingsError(
                Message(
                    "{heads} attention heads cannot be shared by {gpus} GPUs. Take a number of GPUs that divides them.",
                    heads=heads,
                    gpus=self.processes,
                )
            )
        row = batch * mine * size  # numbers of one token's share of the heads
        lengths_of = self._layout.both
        counts = [[3 * n * row] * self.processes for n in lengths_of]
        room = self._exchange.room(counts, q, 0)
        own = room.split([3 * n * row for n in lengths_of])[self._rank]
        sent = q.new_empty(self.processes, rows, batch, 3, mine, size)
        for number, x in enumerate((q, k, v)):
            shares_of = _wide(x).unflatten(2, (self.processes, mine)).permute(2, 1, 0, 3, 4)
            for others in (slice(self._rank), slice(self._rank + 1, None)):
                _wide(sent)[others, :, :, number] = shares_of[others]
            _wide(own.view(rows, batch, 3, mine, size))[:, :, number] = shares_of[self._rank]
        come = self._exchange.start([piece.flatten() for piece in sent], counts, 0)

        def attended() -> Tensor:
            whole = come().view(-1, batch, 3, mine, size)
            return self._given_back(self._attended(attention, whole, lengths))

        return attended

    def _given_back(self, out: Tensor) -> Tensor:
        """This process' rows of all heads (B, L_part, heads * D), of all rows of its own heads (B, L, share * D)."""
        batch, _, width = out.shape
        rows_of, rows = self._layout.both, self._layout.both[self._rank]
        pieces = out.transpose(0, 1).contiguous().split(rows_of)  # (rows, B, share * D) each; one sample is not copied
        counts = [[n * batch * width for n in rows_of]] * self.processes
        self._exchange.room(counts, out, 1)
        found = self._exchange.start([piece.flatten() for piece in pieces], counts, 1)()
        whole = out.new_empty(batch, rows, self.processes, width)
        places = _wide(whole).permute(2, 1, 0, 3)
        places[self._rank] = _wide(pieces[self._rank])
        given = _wide(found.view(self.processes, rows, batch, width))
        for others in (slice(self._rank), slice(self._rank + 1, None)):
            places[others] = given[others]
        return whole.flatten(2)

    def whole(self, image: Tensor) -> Tensor:
        """See `Spread`."""
        most = max(self._layout.image)
        padded = image.new_empty(image.shape[0], most, image.shape[2])
        padded[:, : image.shape[1]] = image
        pieces = [torch.empty_like(padded) for _ in range(self.processes)]
        distributed.all_gather(pieces, padded, self._group)
        return torch.cat([piece[:, :n] for piece, n in zip(pieces, self._layout.image, strict=True)], dim=1)

    def _attended(self, attention: AttentionFunction, whole: Tensor, lengths: Lengths) -> Tensor:
        q, k, v = (whole[:, :, number].transpose(0, 1) for number in range(3))
        if lengths is None:
            return prefix_attention(attention, q, k, v, None)
        order = self._layout.order(whole.device)  # the valid tokens are the first ones of [image | text]
        out = prefix_attention(attention, q[:, order], k[:, order], v[:, order], lengths)
        return torch.empty_like(out).index_copy_(1, order, out)


def _wide(x: Tensor) -> Tensor:
    """`x` in pieces of 16 bytes, which are copied faster than its numbers; as it is where that does not come out."""
    return x.view(torch.complex128) if x.shape[-1] * x.element_size() % 16 == 0 else x
