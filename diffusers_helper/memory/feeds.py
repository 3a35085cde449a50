"""Where a ring's blocks come from: packed in the machine's memory, or read from the disk a few blocks ahead."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from diffusers_helper.memory.packing import BlockSource, HostBuffer
from diffusers_helper.memory.schedule import Event

STAGED = 3
"""Blocks from the disk that are in memory at a time: one being read, one waiting, one being copied."""


@dataclass
class _Stage:
    """One buffer for blocks from the disk."""

    buffer: HostBuffer
    block: int | None = None
    reading: Future[None] | None = None
    copied: Event | None = None


class BlockFeed:
    """Feeds blocks that are in memory as they are, and the others through a few pinned buffers filled by a thread.

    Args:
        blocks: of each block the bytes that travel (uint8, in memory), or what reads them.
    """

    def __init__(self, blocks: Sequence[Tensor | BlockSource]) -> None:
        self._blocks = blocks
        largest = max((b.layout.streamed_bytes for b in blocks if not isinstance(b, Tensor)), default=0)
        self._stages = [_Stage(HostBuffer(largest)) for _ in range(STAGED if largest else 0)]
        for stage in self._stages:
            stage.buffer.pin()
        self._reader = ThreadPoolExecutor(1, "weights") if largest else None

    def prefetch(self, blocks: Sequence[int]) -> None:
        """Begin to read what is on the disk, as far ahead as there are buffers."""
        wanted = [b for b in blocks if not isinstance(self._blocks[b], Tensor)][: len(self._stages)]
        here = {stage.block for stage in self._stages}
        usable = [stage for stage in self._stages if stage.block not in wanted]
        for block in wanted:
            if block not in here:
                self._read(usable.pop(0), block)

    def ready(self, block: int) -> bool:
        """Whether the block is in memory."""
        if isinstance(self._blocks[block], Tensor):
            return True
        stage = self._stage_of(block)
        return stage is not None and stage.reading is not None and stage.reading.done()

    def acquire(self, block: int) -> Tensor:
        """The block's bytes; waits for the disk. Raises what reading raised."""
        source = self._blocks[block]
        if isinstance(source, Tensor):
            return source
        stage = self._stage_of(block)
        assert stage, "it was wanted"
        assert stage.reading
        try:
            stage.reading.result()
        except BaseException:
            stage.block = None  # to be read again, if anybody asks
            raise
        return stage.buffer.bytes[: source.layout.streamed_bytes]

    def release_after(self, block: int, event: Event) -> None:
        """Read nothing over the block's bytes before `event`."""
        stage = self._stage_of(block)
        if stage is not None:
            stage.copied = event

    def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.shutdown(wait=True, cancel_futures=True)

    def _stage_of(self, block: int) -> _Stage | None:
        return next((stage for stage in self._stages if stage.block == block), None)

    def _read(self, stage: _Stage, block: int) -> None:
        source, before, copied = self._blocks[block], stage.reading, stage.copied
        assert not isinstance(source, Tensor)
        assert self._reader

        def read() -> None:
            if copied is not None:
                copied.synchronize()
            source.read_into(stage.buffer.bytes[: source.layout.streamed_bytes])

        if before is not None:
            before.cancel()  # nobody wants that block any more; one that is being read is done before this one begins
        stage.block, stage.copied = block, None
        stage.reading = self._reader.submit(read)
