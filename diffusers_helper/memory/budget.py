"""What fits: arithmetic from a job's settings and the free memory to what is done about it, before the work begins.

The constants follow from the tensors' sizes, not from the card; tests count them, and what an H100 took beside that
is added (docs/performance-log.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusers_helper.core.messages import Message
from diffusers_helper.memory.packing import block_layout, blocks_of, tensors_of

GIB = 1024**3
IN_MLP, IN_ATTENTION, HIDDEN = 11, 9, 4
"""Tensors of the stream's size that a step holds while a block's MLP runs (four are the MLP's own, and fewer if it goes
over a few tokens at a time) and during attention: one more than are counted."""
WIDE_STREAMS = 4
"""Tensors of the stream's size more where streams are float32: the one between blocks and its sum take twice as much,
and a norm or sum that is not fused holds one more."""
MLP_CHUNK = 4096
"""Tokens that a block's MLP takes at a time where memory is short."""
MARGIN = GIB // 4
"""Vectors of all steps, text, libraries' workspaces, and what an allocator cannot use."""
VAE = GIB // 2
"""The autoencoder's weights."""
WHOLE_DECODE, SHORT_DECODE = 7.9 * GIB / (640 * 608), 3.2 * GIB / (640 * 608)
"""Bytes per pixel of a frame: five latent frames decoded at once, stored or computed again."""


@dataclass(frozen=True)
class Work:
    """What one step computes.

    Attributes:
        height, width: of the picture, pixels.
        window: latent frames per section.
        cfg: both branches of guidance run.
        cached_streams, cached_samples: tensors of the stream's and of the sampled tokens' size that a step cache holds
            per branch of guidance.
        text: text tokens at most.
        wide_streams: streams between blocks are float32.
    """

    height: int
    width: int
    window: int = 9
    cfg: bool = False
    cached_streams: int = 0
    cached_samples: int = 0
    text: int = 256
    wide_streams: bool = False

    @property
    def sampled(self) -> int:
        """Tokens of the frames that are sampled."""
        return self.window * -(-self.width // 16) * -(-self.height // 16)

    @property
    def tokens(self) -> int:
        """Length of the sequence: sampled and clean frames, two frames of history at 2x, sixteen at 4x, photo, text."""
        across, down = -(-self.width // 16), -(-self.height // 16)
        half, quarter = -(-across // 2) * -(-down // 2), -(-across // 4) * -(-down // 4)
        return (self.window + 2) * across * down + half + 4 * quarter + 729 + self.text

    def nbytes(self, dim: int, mlp_chunk: int | None = None) -> int:
        """Memory beside the weights while blocks of width `dim` run in 16 bits, MLPs over `mlp_chunk` tokens."""
        at_once = self.tokens if mlp_chunk is None else min(mlp_chunk, self.tokens)
        streams = max(IN_ATTENTION * self.tokens, (IN_MLP - HIDDEN) * self.tokens + HIDDEN * at_once)
        cached = (1 + self.cfg) * (self.cached_streams * self.tokens + self.cached_samples * self.sampled)
        wider = WIDE_STREAMS * self.tokens + cached if self.wide_streams else 0
        return 2 * dim * (streams + cached + wider) + MARGIN


@dataclass(frozen=True)
class Weights:
    """A transformer's sizes: bytes of each block that travel, of all else, and the width."""

    blocks: Sequence[int]
    beside: int
    dim: int


@dataclass(frozen=True)
class Budget:
    """What is done to fit.

    Attributes:
        slots: blocks on the device at a time, those that stay not counted.
        resident_bytes: bytes for blocks that stay.
        mlp_chunk: tokens that an MLP takes at a time; None is all.
        tile_vae: decode with little memory.
        need: bytes that the smallest way of working takes.
        free: bytes there are.
    """

    slots: int
    resident_bytes: int
    mlp_chunk: int | None
    tile_vae: bool
    need: int
    free: int

    @property
    def fits(self) -> bool:
        """Whether it should."""
        return self.need <= self.free


def weights_of(transformer: Any) -> Weights:
    """The sizes of a packed transformer, wherever its weights are."""
    blocks = blocks_of(transformer)
    inside = {id(tensor) for block in blocks for tensor in tensors_of(block).values()}
    beside = sum(tensor.nbytes for tensor in tensors_of(transformer).values() if id(tensor) not in inside)
    return Weights([block_layout(block).streamed_bytes for block in blocks], beside, transformer.proj_out.in_features)


def budget(free: int, preserved: int, work: Work, weights: Weights) -> Budget:
    """Share `free` bytes of a device: first what must be, then whole MLPs, a third place, and blocks that stay.

    The blocks that stay leave `preserved` bytes, or what the work takes if that is more.
    """
    largest = max(weights.blocks)
    least = weights.beside + min(2, len(weights.blocks)) * largest
    mlp_chunk = None if least + work.nbytes(weights.dim) <= free else MLP_CHUNK
    need = least + work.nbytes(weights.dim, mlp_chunk)
    slots = 3 if need + largest <= free else 2
    left = free - weights.beside - slots * largest - max(preserved, work.nbytes(weights.dim, mlp_chunk))
    resident_bytes = sum(weights.blocks) if left + slots * largest >= sum(weights.blocks) else max(0, left)
    pixels = work.height * work.width
    tile_vae = free < VAE + WHOLE_DECODE * pixels + MARGIN
    decode = VAE + int((SHORT_DECODE if tile_vae else WHOLE_DECODE) * pixels)
    return Budget(slots, resident_bytes, mlp_chunk, tile_vae, max(need, decode), free)


def sentence(plan: Budget, blocks: int, resident_blocks: int) -> Message:
    """What the user should know of `plan`; `resident_blocks` of the transformer's `blocks` stay on the device."""
    if not plan.fits:
        return Message(
            "The GPU has {free:.1f} GiB free and this job may need {need:.1f}. If it stops, choose a smaller picture.",
            free=plan.free / GIB,
            need=plan.need / GIB,
        )
    return Message(
        "The GPU has {free:.1f} GiB free: {kept} of the model's {blocks} blocks stay there, the others arrive in time.",
        free=plan.free / GIB,
        kept=resident_blocks,
        blocks=blocks,
    )
