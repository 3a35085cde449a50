"""When blocks travel: a ring of places on the device that a second stream fills ahead of the work.

A block that is about to run finds its weights in a place; while it runs, those of the next ones arrive. Two rules hold,
by events alone and without ever stopping the program: nothing reads a place before its copy is complete, and no copy
begins before the work that reads the place is done. A place keeps its block until it is needed for another: whoever
runs the blocks may skip a round, stop in the middle or begin again anywhere.

All that CUDA brings (streams, events, copies) comes in as a `Device`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Event(Protocol):
    """A point in a stream's work, recorded anew each time; before that it counts as passed."""

    def record(self, stream: Any) -> None:
        """The point is what `stream` was given until now."""

    def synchronize(self) -> None:
        """Wait until the point has passed."""


class Stream(Protocol):
    """Work in order."""

    def wait_event(self, event: Any) -> None:
        """What the stream is given from now on begins when `event` has passed."""


class Device(Protocol):
    """Memory and two streams: the one that computes, and one beside it for copies."""

    side: Stream

    def compute(self) -> Stream:
        """The stream that is given the work now."""

    def event(self) -> Event:
        """A new event."""

    def memory(self, nbytes: int) -> Tensor:
        """Memory of the device, uint8."""

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Give the side stream a copy from the machine's memory."""


class Feed(Protocol):
    """Gives the bytes of blocks in the machine's memory."""

    def want(self, blocks: Sequence[int]) -> None:
        """These will be asked for next, in this order."""

    def ready(self, block: int) -> bool:
        """Whether `take` would not wait."""

    def take(self, block: int) -> Tensor:
        """The block's bytes, uint8; they stay as they are until the event that `sent` names."""

    def sent(self, block: int, event: Event) -> None:
        """When `event` has passed the bytes are not needed any more."""

    def close(self) -> None:
        """Nothing will be asked for any more."""


class _Place:
    """Memory for one block at a time."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self.memory = device.memory(nbytes)
        self.block: int | None = None
        self.filled, self.free = device.event(), device.event()
        self.free.record(device.compute())  # the memory may have been read a moment ago, by something else


class Ring:
    """The places of a model's blocks on `device`.

    Args:
        device: where blocks run.
        feed: where their weights come from.
        sizes: bytes of each block.
        places: of the ring; one runs, the others are filled meanwhile.
        kept: blocks with a place of their own, which travel once.

    Attributes:
        bytes_sent: all that was copied to the device so far.

    Raises torch.OutOfMemoryError when the device has no room for the places.
    """

    def __init__(self, device: Device, feed: Feed, sizes: Sequence[int], places: int, kept: Sequence[int] = ()) -> None:
        self._device = device
        self._feed = feed
        self._count = len(sizes)
        streamed = [size for block, size in enumerate(sizes) if block not in kept]
        self._places = [_Place(device, max(streamed)) for _ in range(min(places, len(streamed)))]
        self._kept = {block: _Place(device, sizes[block]) for block in kept}
        self._held: dict[int, _Place] = {}
        self.bytes_sent = 0

    def enter(self, block: int) -> Tensor:
        """The memory with `block`'s weights, to be read by what the computing stream is given until `leave`."""
        ahead = [*range(block, self._count), *range(block)]
        self._feed.want([b for b in ahead if b not in self._held])
        wanted = self._within_reach(ahead)
        usable = [place for place in self._places if place.block not in wanted]
        for b in wanted:
            if b not in self._held and (b == block or self._feed.ready(b)):
                self._fill(self._kept[b] if b in self._kept else usable.pop(0), b)
        place = self._held[block]
        self._device.compute().wait_event(place.filled)
        return place.memory

    def leave(self, block: int) -> None:
        """All work that reads `block`'s weights has been given."""
        self._held[block].free.record(self._device.compute())

    def close(self) -> None:
        """Wait until no copy and no work uses the places, and give them up."""
        self._feed.close()
        for place in (*self._places, *self._kept.values()):
            place.filled.synchronize()
            place.free.synchronize()
        self._places.clear()
        self._kept.clear()
        self._held.clear()

    def _within_reach(self, ahead: Sequence[int]) -> list[int]:
        """The first blocks of `ahead` that the ring has places for, kept ones between them too."""
        room = len(self._places)
        wanted = []
        for block in ahead:
            room -= block not in self._kept
            if room < 0:
                break
            wanted.append(block)
        return wanted

    def _fill(self, place: _Place, block: int) -> None:
        if place.block is not None:
            del self._held[place.block]
            place.block = None  # in case this fails
        source = self._feed.take(block)
        self._device.side.wait_event(place.free)
        self._device.copy(place.memory[: len(source)], source)
        place.filled.record(self._device.side)
        self._feed.sent(block, place.filled)
        place.block = block
        self._held[block] = place
        self.bytes_sent += len(source)


def spread(sizes: Sequence[int], room: int) -> list[int]:
    """Which blocks to keep in `room` bytes: as many as fit, evenly among the others, which so have time to travel."""
    share = min(1.0, room / max(1, sum(sizes)))
    kept, credit, used = [], 0.0, 0
    for block, size in enumerate(sizes):
        credit += size * share
        if credit >= size * (1 - 1e-9) and used + size <= room:
            kept.append(block)
            credit -= size
            used += size
    return kept
