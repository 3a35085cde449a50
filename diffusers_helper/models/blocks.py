"""The transformer's blocks: text refiner, double-stream and single-stream. Attribute names are the checkpoint's.

A block gets what it computes with (`Execution`) as an argument and knows nothing of packing, caching or devices.
Sequences are [image | text]; where `lengths` is given, only that many tokens of a sample are real and what stands
behind is padding.

Modulation, the shifts, scales and gates of a block, depends on timestep, guidance and pooled text alone, not on what
flows through the block. So it is computed outside (`modulation`), for as many steps at once as one likes, and given to
`forward`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .embeddings import TimeTextEmbed
from .execution import Execution
from .kernels import Heads, Kernels
from .linears import Attending, Input, here
from .norms import EPS, Modulation
from .rows import Shifted
from .sdpa import AttentionFunction
from .spread import Lengths, Projections, prefix_attention


def attend(projections: Projections, execution: Execution, lengths: Lengths) -> Attending:
    """Begin attention over streams that lie behind each other; what it returns gives (B, L, heads * D).

    See `Spread.attend`.
    """
    eight_bit, spread = execution.eight_bit_attention, execution.spread
    if eight_bit is not None and spread.processes == 1:
        attended = eight_bit.attend(projections, lengths)
        return lambda: attended
    # Scales are those of all tokens: what others have is quantised when it has come.
    return spread.attend(eight_bit or execution.attention, execution.kernels, projections, lengths)


def chunked(function: Callable[..., Tensor], chunk: int | None, *streams: Input) -> Tensor:
    """`function` of streams (B, L, ...), to (B, L, dim): over `chunk` tokens at a time, so that less is held at once.

    The chunks' products may be summed in another order than the whole's, which rounds otherwise in the last bit.
    """
    length = streams[0].shape[1]
    if chunk is None or length <= chunk:
        return function(*streams)
    out: Tensor | None = None
    for start in range(0, length, chunk):
        piece = function(*(x[:, start : start + chunk] for x in streams))
        if out is None:
            out = piece.new_empty(len(piece), length, *piece.shape[2:])
        out[:, start : start + chunk] = piece
    assert out is not None
    return out


class Activated(nn.Module):
    """Linear and activation (GELU-tanh or SiLU)."""

    def __init__(self, dim: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)
        self.activation = nn.SiLU() if activation == "silu" else nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., hidden)."""
        activated: Tensor = self.activation(self.proj(x))
        return activated


class FeedForward(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, dim: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        # The checkpoint numbers the layers 0 and 2.
        self.net = nn.Sequential(Activated(dim, hidden, activation), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        out: Tensor = self.net(x)
        return out

    def chunked(self, x: Input, execution: Execution) -> Tensor:
        """`forward` of a GELU layer, over a few tokens at a time where memory is short."""

        activated, last = self.net[0], self.net[2]
        assert isinstance(activated, Activated)
        assert isinstance(last, nn.Linear)

        def mlp(x: Input) -> Tensor:
            return execution.linears.mlp(x, activated.proj, last)

        return chunked(mlp, execution.mlp_chunk, x)


class Attention(nn.Module):
    """Projections of one stream to queries, keys and values and, where `project_out`, back."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool, project_out: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        if qk_norm:
            self.norm_q = nn.RMSNorm(dim // heads, eps=EPS)
            self.norm_k = nn.RMSNorm(dim // heads, eps=EPS)
        if project_out:
            self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, dim) -> queries, keys and values (B, L, heads, D), not normalised."""
        q, k, v = (self.in_heads(layer(x)) for layer in (self.to_q, self.to_k, self.to_v))
        return q, k, v

    def in_heads(self, x: Tensor) -> Tensor:
        """(B, L, dim) -> (B, L, heads, D)."""
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads


class JointAttention(Attention):
    """Attention over [image | text], each stream with its own weights."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads, qk_norm=True, project_out=True)
        self.add_q_proj = nn.Linear(dim, dim)
        self.add_k_proj = nn.Linear(dim, dim)
        self.add_v_proj = nn.Linear(dim, dim)
        self.norm_added_q = nn.RMSNorm(dim // heads, eps=EPS)
        self.norm_added_k = nn.RMSNorm(dim // heads, eps=EPS)
        self.to_add_out = nn.Linear(dim, dim)

    def forward(
        self, image: Input, text: Input, rope: Tensor, execution: Execution, lengths: Lengths
    ) -> tuple[Tensor, Tensor]:
        """Both streams (B, L_image, dim) and (B, L_text, dim), attended; `lengths` counts image and text."""
        linears = execution.linears

        def streams(of_image: nn.Linear, norm: nn.RMSNorm, of_text: nn.Linear, added_norm: nn.RMSNorm) -> list[Heads]:
            return [
                Heads(self.in_heads(linears.linear(image, of_image)), norm.weight, rope),
                Heads(self.in_heads(linears.linear(text, of_text)), added_norm.weight, None),
            ]

        projections = Projections(
            self.in_heads(linears.join_linear((image, text), (self.to_v, self.add_v_proj))),
            lambda: streams(self.to_q, self.norm_q, self.add_q_proj, self.norm_added_q),
            lambda: streams(self.to_k, self.norm_k, self.add_k_proj, self.norm_added_k),
        )
        out = here(attend(projections, execution, lengths)())
        of_image, of_text = out[:, : image.shape[1]], out[:, image.shape[1] :]
        to_out = self.to_out[0]
        assert isinstance(to_out, nn.Linear)
        return linears.linear(of_image, to_out), linears.linear(of_text, self.to_add_out)


class DoubleStreamBlock(nn.Module):
    """Image and text streams with their own weights, joined in attention (MM-DiT with AdaLN-Zero)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = Modulation(dim, 6)
        self.norm1_context = Modulation(dim, 6)
        self.attn = JointAttention(dim, heads)
        self.ff = FeedForward(dim, hidden)
        self.ff_context = FeedForward(dim, hidden)

    def modulation(self, temb: Tensor) -> Tensor:
        """All vectors of the block, image's six and text's six in a row: (..., dim) -> (..., 12 * dim)."""
        return torch.cat([self.norm1(temb), self.norm1_context(temb)], dim=-1)

    def modulated_input(self, image: Tensor, modulation: Tensor, kernels: Kernels) -> Tensor:
        """What the block's attention sees of the image stream: a step cache's measure of change."""
        shift, scale, *_ = _vectors(modulation, 12)
        return kernels.modulate(image, shift, scale)

    def forward(
        self, image: Tensor, text: Tensor, modulation: Tensor, rope: Tensor, execution: Execution, lengths: Lengths
    ) -> tuple[Tensor, Tensor]:
        """Image (B, L_image, dim) and text (B, L_text, dim), with one step's modulation (B, 12 * dim)."""
        linears = execution.linears
        (shift, scale, gate, *mlp), (c_shift, c_scale, c_gate, *c_mlp) = _halves(_vectors(modulation, 12))
        image_out, text_out = self.attn(
            linears.modulate(image, shift, scale), linears.modulate(text, c_shift, c_scale), rope, execution, lengths
        )
        return (
            _gated_mlp(image, image_out, gate, mlp, self.ff, execution),
            _gated_mlp(text, text_out, c_gate, c_mlp, self.ff_context, execution),
        )


def _gated_mlp(
    x: Tensor, attended: Tensor, gate: Tensor, mlp: Sequence[Tensor], ff: FeedForward, execution: Execution
) -> Tensor:
    """Add the gated attention to a stream, then its gated MLP."""
    shift, scale, mlp_gate = mlp
    x, x_in = execution.linears.add_gated_modulate(x, attended, gate, shift, scale)
    return execution.kernels.add_gated(x, ff.chunked(x_in, execution), mlp_gate)


class SingleStreamBlock(nn.Module):
    """One stream [image | text]; attention and MLP in parallel (Dehghani et al., arXiv 2302.05442)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = Modulation(dim, 3)
        self.attn = Attention(dim, heads, qk_norm=True, project_out=False)
        self.proj_mlp = nn.Linear(dim, hidden)
        self.proj_out = nn.Linear(dim + hidden, dim)

    def modulation(self, temb: Tensor) -> Tensor:
        """All vectors of the block in a row: (..., dim) -> (..., 3 * dim)."""
        vectors: Tensor = self.norm(temb)
        return vectors

    def forward(self, x: Tensor, modulation: Tensor, rope: Tensor, execution: Execution, lengths: Lengths) -> Tensor:
        """`x` (B, L, dim), with one step's modulation (B, 3 * dim)."""
        linears, attn = execution.linears, self.attn
        shift, scale, gate = _vectors(modulation, 3)
        x_in = linears.modulate(x, shift, scale)

        def heads(layer: nn.Linear) -> Tensor:
            return attn.in_heads(linears.linear(x_in, layer))

        projections = Projections(
            heads(attn.to_v),
            lambda: [Heads(heads(attn.to_q), attn.norm_q.weight, rope)],
            lambda: [Heads(heads(attn.to_k), attn.norm_k.weight, rope)],
        )
        attending = attend(projections, execution, lengths)
        del projections  # whose values would be held while the MLP runs

        def joined(attended: Tensor | Shifted, x_in: Input) -> Tensor:
            return linears.mlp_beside(lambda: attended, x_in, self.proj_mlp, self.proj_out)

        if execution.mlp_chunk is None:
            out = linears.mlp_beside(attending, x_in, self.proj_mlp, self.proj_out)
        else:
            out = chunked(joined, execution.mlp_chunk, here(attending()), x_in)
        return execution.kernels.add_gated(x, out, gate)


def _vectors(modulation: Tensor, count: int) -> Sequence[Tensor]:
    """`count` vectors (B, 1, dim) of (B, count * dim)."""
    return modulation.unsqueeze(1).chunk(count, dim=-1)


def _halves(vectors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    middle = len(vectors) // 2
    return vectors[:middle], vectors[middle:]


class RefinerBlock(nn.Module):
    """Self-attention and MLP over the text tokens, gated by the timestep."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, heads, qk_norm=False, project_out=True)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.ff = FeedForward(dim, 4 * dim, "silu")
        self.norm_out = Modulation(dim, 2)

    def forward(self, x: Tensor, temb: Tensor, attention: AttentionFunction, lengths: Lengths) -> Tensor:
        """`x` (B, L, dim), conditioned on temb (B, dim)."""
        gate, mlp_gate = _vectors(self.norm_out(temb), 2)
        x = x + gate * self.attn.to_out(prefix_attention(attention, *self.attn.qkv(self.norm1(x)), lengths))
        out: Tensor = x + mlp_gate * self.ff(self.norm2(x))
        return out


class TokenRefiner(nn.Module):
    """Text-encoder states to text tokens of the model."""

    def __init__(self, text_dim: int, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.time_text_embed = TimeTextEmbed(text_dim, dim, guidance=False)
        self.proj_in = nn.Linear(text_dim, dim)
        blocks = nn.ModuleList(RefinerBlock(dim, heads) for _ in range(layers))
        self.token_refiner = nn.ModuleDict({"refiner_blocks": blocks})  # one level more than needed: the checkpoint's

    def forward(
        self, text: Tensor, mask: Tensor, timestep: Tensor, attention: AttentionFunction, lengths: Lengths
    ) -> Tensor:
        """Text (B, L, text_dim), of which `mask` (B, L) tells the valid tokens -> (B, L, dim)."""
        weight = mask.float().unsqueeze(-1)
        average = (text * weight).sum(1) / weight.sum(1).clamp(min=1)  # an empty text must not make NaN gradients
        temb = self.time_text_embed(timestep, average.to(text.dtype))
        x: Tensor = self.proj_in(text)
        blocks = self.token_refiner["refiner_blocks"]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            x = block(x, temb, attention, lengths)
        return x
