"""The transformer's blocks: text refiner, double-stream and single-stream. Attribute names are the checkpoint's.

A block gets the attention function as an argument and knows nothing of packing, caching or devices. Sequences are
[image | text]; where `lengths` is given, only that many tokens of a sample are real and what stands behind is padding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionFunction
from .embeddings import TimeTextEmbed
from .norms import EPS, Modulation, modulate
from .rope import rotate

Lengths = Sequence[int] | None


def prefix_attention(attention: AttentionFunction, q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> Tensor:
    """Attention of each sample over its own valid prefix: q, k, v (B, L, heads, D) -> (B, L, heads * D).

    `lengths` None means that all L tokens are valid. Padding gets zeros: no mask of L x L is ever made.
    """
    if lengths is None:
        return attention(q, k, v).flatten(2)
    samples = [attention(*(x[i : i + 1, :n] for x in (q, k, v))) for i, n in enumerate(lengths)]
    return torch.cat([F.pad(x.flatten(2), (0, 0, 0, q.shape[1] - x.shape[1])) for x in samples])


class Activated(nn.Module):
    """Linear and activation (GELU-tanh or SiLU)."""

    def __init__(self, dim: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)
        self.activation = nn.SiLU() if activation == "silu" else nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., hidden)."""
        return self.activation(self.proj(x))


class FeedForward(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, dim: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        # The checkpoint numbers the layers 0 and 2.
        self.net = nn.Sequential(Activated(dim, hidden, activation), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.net(x)


class Attention(nn.Module):
    """Projections of one stream to queries, keys and values and, where `project_out`, back."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool, project_out: bool) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim // heads, eps=EPS) if qk_norm else nn.Identity()
        self.norm_k = nn.RMSNorm(dim // heads, eps=EPS) if qk_norm else nn.Identity()
        if project_out:
            self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, dim) -> queries, keys and values (B, L, heads, D), the first two normalised."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.to_q, self.to_k, self.to_v))
        return self.norm_q(q), self.norm_k(k), v


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

    def text_qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same as `qkv`, for the text stream."""
        layers = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in layers)
        return self.norm_added_q(q), self.norm_added_k(k), v

    def forward(
        self, image: Tensor, text: Tensor, rope: Tensor, attention: AttentionFunction, lengths: Lengths
    ) -> tuple[Tensor, Tensor]:
        """Both streams (B, L_image, dim) and (B, L_text, dim), attended; `lengths` counts image and text."""
        q, k, v = (torch.cat(pair, dim=1) for pair in zip(self.qkv(image), self.text_qkv(text), strict=True))
        out = prefix_attention(attention, rotate(q, rope), rotate(k, rope), v, lengths)
        image, text = out.split([image.shape[1], text.shape[1]], dim=1)
        return self.to_out(image), self.to_add_out(text)


class DoubleStreamBlock(nn.Module):
    """Image and text streams with their own weights, joined in attention (MM-DiT with AdaLN-Zero)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = Modulation(dim, 6)
        self.norm1_context = Modulation(dim, 6)
        self.attn = JointAttention(dim, heads)
        self.ff = FeedForward(dim, hidden)
        self.ff_context = FeedForward(dim, hidden)

    def modulated_input(self, image: Tensor, temb: Tensor) -> Tensor:
        """What the block's attention sees of the image stream: a step cache's measure of change."""
        shift, scale, *_ = self.norm1(temb)
        return modulate(image, shift, scale)

    def forward(
        self, image: Tensor, text: Tensor, temb: Tensor, rope: Tensor, attention: AttentionFunction, lengths: Lengths
    ) -> tuple[Tensor, Tensor]:
        """Image (B, L_image, dim) and text (B, L_text, dim), conditioned on temb (B, dim)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.norm1(temb)
        c_shift, c_scale, c_gate, c_mlp_shift, c_mlp_scale, c_mlp_gate = self.norm1_context(temb)
        image_out, text_out = self.attn(
            modulate(image, shift, scale), modulate(text, c_shift, c_scale), rope, attention, lengths
        )
        image = image + gate * image_out
        text = text + c_gate * text_out
        image = image + mlp_gate * self.ff(modulate(image, mlp_shift, mlp_scale))
        text = text + c_mlp_gate * self.ff_context(modulate(text, c_mlp_shift, c_mlp_scale))
        return image, text


class SingleStreamBlock(nn.Module):
    """One stream [image | text]; attention and MLP in parallel (Dehghani et al., arXiv 2302.05442)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = Modulation(dim, 3)
        self.attn = Attention(dim, heads, qk_norm=True, project_out=False)
        self.proj_mlp = nn.Linear(dim, hidden)
        self.proj_out = nn.Linear(dim + hidden, dim)

    def forward(self, x: Tensor, temb: Tensor, rope: Tensor, attention: AttentionFunction, lengths: Lengths) -> Tensor:
        """`x` (B, L, dim), conditioned on temb (B, dim)."""
        shift, scale, gate = self.norm(temb)
        x_in = modulate(x, shift, scale)
        q, k, v = self.attn.qkv(x_in)
        attended = prefix_attention(attention, rotate(q, rope), rotate(k, rope), v, lengths)
        mlp = F.gelu(self.proj_mlp(x_in), approximate="tanh")
        return x + gate * self.proj_out(torch.cat([attended, mlp], dim=-1))


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
        gate, mlp_gate = self.norm_out(temb)
        x = x + gate * self.attn.to_out(prefix_attention(attention, *self.attn.qkv(self.norm1(x)), lengths))
        return x + mlp_gate * self.ff(self.norm2(x))


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
        x = self.proj_in(text)
        for block in self.token_refiner["refiner_blocks"]:
            x = block(x, temb, attention, lengths)
        return x
