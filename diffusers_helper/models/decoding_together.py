"""Windows of a section's decode, shared by the processes of a group: each decodes some, and the first one gets all."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import Tensor, distributed

MOST_WINDOWS, MOST_DECODES, MOST_VIDEOS = 1000, 1000, 1000
"""Of a decode, of a video, and until numbers begin anew: each window's message has a number of its own."""
KEPT = 3
"""Decodes whose pixels may be on their way."""


class DecodesTogether:
    """Gives a `vae_decoder.Share` for every decode of a video, the same for the same decode in all processes.

    The first process fades the windows into each other, so that pixels are those of one process, bit for bit. The
    others get no pixels. A decode is not to be interrupted in some processes alone, and this object is to be kept until
    the first process has its pixels: the others do not wait for that.

    Args:
        group: one that moves tensors on the CPU (gloo), where the pixels go anyway.
        video: its number among those of the group.
    """

    def __init__(self, group: distributed.ProcessGroup, video: int = 0) -> None:
        self._group = group
        self._decodes = count(video % MOST_VIDEOS * MOST_DECODES)
        self._newest: deque[_Windows] = deque(maxlen=KEPT)

    def __call__(self) -> "_Windows":
        """Begin the next decode."""
        self._newest.append(_Windows(self._group, next(self._decodes) * MOST_WINDOWS))
        return self._newest[-1]


class _Windows:
    """One decode; called once more where the first call ran out of memory, it goes on with what is left."""

    def __init__(self, group: distributed.ProcessGroup, tag: int) -> None:
        self._group = group
        self._rank, self._size = distributed.get_rank(group), distributed.get_world_size(group)
        self._tag = tag
        self._moving: dict[int, tuple[distributed.Work, Tensor]] = {}
        self._came: set[int] = set()

    def __call__(self, decode: Callable[[Tensor], Tensor], windows: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `vae_decoder.Share`."""
        return self._collected(decode, windows) if self._rank == 0 else self._given(decode, windows)

    def _owner(self, number: int, windows: Sequence[Tensor]) -> int:
        """Who decodes a window: the last one, which may be shorter, is of the first process, who fades as well."""
        return (len(windows) - 1 - number) % self._size

    def _given(self, decode: Callable[[Tensor], Tensor], windows: Sequence[Tensor]) -> Iterator[Tensor]:
        for number, latents in enumerate(windows):
            if self._owner(number, windows) == self._rank and number not in self._moving:
                pixels = decode(latents).cpu().contiguous()
                work = distributed.isend(pixels, group=self._group, group_dst=0, tag=self._tag + number)
                assert work is not None, "this process is in the group"
                self._moving[number] = (work, pixels)
        # Not waited for: the first process may have ended the video, and tells so where all meet next.
        yield windows[0].new_empty(1, 3, 0, 1, 1)

    def _collected(self, decode: Callable[[Tensor], Tensor], windows: Sequence[Tensor]) -> Iterator[Tensor]:
        own = deque(number for number in range(len(windows)) if self._owner(number, windows) == 0)
        first = own.popleft()
        decoded = {first: decode(windows[first])}
        device = decoded[first].device
        self._expect(decoded[first], windows[first], windows)
        for number in range(len(windows)):
            if self._owner(number, windows) == 0:
                yield decoded.pop(number)
                continue
            if not decoded and own:  # the device has work while this one comes
                ahead = own.popleft()
                decoded[ahead] = decode(windows[ahead])
            work, pixels = self._moving[number]
            if number not in self._came:
                work.wait()
                self._came.add(number)
            yield pixels.to(device)

    def _expect(self, decoded: Tensor, latents: Tensor, windows: Sequence[Tensor]) -> None:
        """Begin to wait for the others' windows, whose pixels are like these, which some latents gave."""
        ratio = (decoded.shape[2] - 1) // (latents.shape[2] - 1)
        for number, window in enumerate(windows):
            source, tag = self._owner(number, windows), self._tag + number
            if source and number not in self._moving:
                frames = (window.shape[2] - 1) * ratio + 1
                pixels = torch.empty(*decoded.shape[:2], frames, *decoded.shape[3:], dtype=decoded.dtype)
                work = distributed.irecv(pixels, group=self._group, group_src=source, tag=tag)
                assert work is not None, "this process is in the group"
                self._moving[number] = (work, pixels)
