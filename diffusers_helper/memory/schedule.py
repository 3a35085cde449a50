"""When blocks are copied: a ring of slots on the device that a second stream fills ahead of the work.

A block that is about to run finds its weights in a slot; while it runs, those of the next ones arrive. Two rules hold,
by events alone and without ever stopping the program: nothing reads a slot before its copy is complete, and no copy
begins before the work that reads the slot is done. A slot keeps its block until it is needed for another: whoever
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

    def prefetch(self, blocks: Sequence[int]) -> None:
        """These will be asked for next, in this order."""

    def ready(self, block: int) -> bool:
        """Whether `acquire` would not wait."""

    def acquire(self, block: int) -> Tensor:
        """The block's bytes, uint8; they stay as they are until the event that `release_after` names."""

    def release_after(self, block: int, event: Event) -> None:
        """When `event` has passed the bytes are not needed any more."""

    def close(self) -> None:
        """Nothing will be asked for any more."""


class _Slot:
    """Memory for one block at a time."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self.memory = device.memory(nbytes)
        self.block: int | None = None
        self.filled, self.free = device.event(), device.event()
        self.free.record(device.compute())  # the memory may have been read a moment ago, by something else


class Ring:
    """The slots of a model's blocks on `device`.

    Args:
        device: where blocks run.
        feed: where their weights come from.
        sizes: bytes of each block.
        slots: of the ring; one runs, the others are filled meanwhile.
        resident_blocks: blocks with a slot of their own, which are copied once.

    Attributes:
        bytes_sent: all that was copied to the device so far.

    Raises torch.OutOfMemoryError when the device has no room for the slots.
    """

    def __init__(
        self, device: Device, feed: Feed, sizes: Sequence[int], slots: int, resident_blocks: Sequence[int] = ()
    ) -> None:
        self._device = device
        self._feed = feed
        self._count = len(sizes)
        streamed = [size for block, size in enumerate(sizes) if block not in resident_blocks]
        self._slots = [_Slot(device, max(streamed)) for _ in range(min(slots, len(streamed)))]
        self._resident = {block: _Slot(device, sizes[block]) for block in resident_blocks}
        self._held: dict[int, _Slot] = {}
        self.bytes_sent = 0

    def enter(self, block: int) -> Tensor:
        """The memory with `block`'s weights, to be read by what the computing stream is given until `leave`."""
        ahead = [*range(block, self._count), *range(block)]
        self._feed.prefetch([b for b in ahead if b not in self._held])
        wanted = self._within_reach(ahead)
        usable = [slot for slot in self._slots if slot.block not in wanted]
        for b in wanted:
            if b not in self._held and (b == block or self._feed.ready(b)):
                self._fill(self._resident[b] if b in self._resident else usable.pop(0), b)
        slot = self._held[block]
        self._device.compute().wait_event(slot.filled)
        return slot.memory

    def leave(self, block: int) -> None:
        """All work that reads `block`'s weights has been given."""
        self._held[block].free.record(self._device.compute())

    def close(self) -> None:
        """Wait until no copy and no work uses the slots, and give them up."""
        self._feed.close()
        for slot in (*self._slots, *self._resident.values()):
            slot.filled.synchronize()
            slot.free.synchronize()
        self._slots.clear()
        self._resident.clear()
        self._held.clear()

    def _within_reach(self, ahead: Sequence[int]) -> list[int]:
        """The first blocks of `ahead` that the ring has slots for, kept ones between them too."""
        left = len(self._slots)
        wanted = []
        for block in ahead:
            left -= block not in self._resident
            if left < 0:
                break
            wanted.append(block)
        return wanted

    def _fill(self, slot: _Slot, block: int) -> None:
        if slot.block is not None:
            del self._held[slot.block]
            slot.block = None  # in case this fails
        source = self._feed.acquire(block)
        self._device.side.wait_event(slot.free)
        self._device.copy(slot.memory[: len(source)], source)
        slot.filled.record(self._device.side)
        self._feed.release_after(block, slot.filled)
        slot.block = block
        self._held[block] = slot
        self.bytes_sent += len(source)


def evenly_spaced(sizes: Sequence[int], nbytes: int) -> list[int]:
    """Which blocks stay in `nbytes` bytes: as many as fit, evenly among the others, whose copies so have time."""
    share = min(1.0, nbytes / max(1, sum(sizes)))
    resident_blocks, credit, used = [], 0.0, 0
    for block, size in enumerate(sizes):
        credit += size * share
        if credit >= size * (1 - 1e-9) and used + size <= nbytes:
            resident_blocks.append(block)
            credit -= size
            used += size
    return resident_blocks
