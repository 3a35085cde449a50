"""Ulysses: a sequence spread over the GPUs of a group (Jacobs et al., arXiv 2309.14509), here one of uneven parts.

Every process holds a part of the image's tokens and a part of the text's, so all but attention is a process' own work.
For attention they exchange: everyone gets all tokens, of its share of the heads, and gives their results back. Keys may
come in any order, so the whole is [image 0 | text 0 | image 1 | text 1 | ...]. Nothing is padded, nothing masked: how
long each part is follows from the lengths of the whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, distributed

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message

from .exchange import Exchange
from .kernels import Coming, Kernels, put_apart, wide
from .sdpa import AttentionFunction
from .spread import Lengths, Projections, prefix_attention


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

    def parts(self, image: Tensor, text: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Spread`."""
        self._layout = _Layout(shares(image.shape[1], self.processes), shares(text.shape[1], self.processes))
        of_image, of_text = self._layout.image, self._layout.text
        return (
            image.split(of_image, dim=1)[self._rank],
            text.split(of_text, dim=1)[self._rank],
            rope.split(of_image, dim=1)[self._rank],
        )

    def begin(self) -> None:
        """See `Spread`."""
        self._exchange.begin()  # all have read what came in the run before: `whole` waited for them

    def attend(
        self, attention: AttentionFunction, kernels: Kernels, projections: Projections, lengths: Lengths
    ) -> Callable[[], Coming]:
        """See `Spread`. Each part is sent as soon as it is made: values go behind the products of queries and keys."""
        values = projections.values
        batch, rows, heads, size = values.shape
        share, rest = divmod(heads, self.processes)
        if rest:
            raise SettingsError(
                Message(
                    "{heads} attention heads cannot be shared by {gpus} GPUs. Take a number of GPUs that divides them.",
                    heads=heads,
                    gpus=self.processes,
                )
            )
        lengths_of = [n * batch * share * size for n in self._layout.both]
        transfer = self._exchange.open([[n] * self.processes for n in lengths_of], values, channel=0, parts=3)

        def send(part: int, put: Callable[[Tensor, Tensor], object]) -> None:
            own = transfer.room[part].split(lengths_of)[self._rank].view(rows, batch, share, size)
            others = values.new_empty(self.processes - 1, *own.shape)
            put(own, others)
            transfer.send(part, [piece.flatten() for piece in others])

        send(2, partial(put_apart, values, self._rank))
        for part, streams in enumerate((projections.queries, projections.keys)):
            send(part, partial(kernels.norm_rotate_apart, streams(), self._rank))
        come = transfer.finish()

        def attended() -> Coming:
            q, k, v = come().view(3, -1, batch, share, size).transpose(1, 2)
            return self._given_back(self._attended(attention, (q, k, v), lengths))

        return attended

    def _given_back(self, out: Tensor) -> Coming:
        """This process' rows of all heads (B, L_part, heads * D), of all rows of its own heads (B, L, share * D)."""
        batch, _, width = out.shape
        rows_of, rows = self._layout.both, self._layout.both[self._rank]
        pieces = list(out.transpose(0, 1).contiguous().split(rows_of))  # (rows, B, share * D); one sample is not copied
        own = pieces.pop(self._rank)
        counts = [[n * batch * width for n in rows_of]] * self.processes
        transfer = self._exchange.open(counts, out, channel=1)
        transfer.send(0, [piece.flatten() for piece in pieces])
        come = transfer.finish()

        def given() -> Tensor:
            whole = out.new_empty(batch, rows, self.processes, width)
            places = wide(whole).permute(2, 1, 0, 3)
            places[self._rank] = wide(own)
            found = wide(come().view(self.processes, rows, batch, width))
            for others in (slice(self._rank), slice(self._rank + 1, None)):
                places[others] = found[others]
            return whole.flatten(2)

        return given

    def whole(self, image: Tensor) -> Tensor:
        """See `Spread`."""
        most = max(self._layout.image)
        padded = image.new_empty(image.shape[0], most, image.shape[2])
        padded[:, : image.shape[1]] = image
        pieces = [torch.empty_like(padded) for _ in range(self.processes)]
        distributed.all_gather(pieces, padded, self._group)
        return torch.cat([piece[:, :n] for piece, n in zip(pieces, self._layout.image, strict=True)], dim=1)

    def _attended(self, attention: AttentionFunction, whole: tuple[Tensor, Tensor, Tensor], lengths: Lengths) -> Tensor:
        if lengths is None:
            return prefix_attention(attention, *whole, None)
        order = self._layout.order(whole[0].device)  # the valid tokens are the first ones of [image | text]
        q, k, v = (x[:, order] for x in whole)
        out = prefix_attention(attention, q, k, v, lengths)
        return torch.empty_like(out).index_copy_(1, order, out)
