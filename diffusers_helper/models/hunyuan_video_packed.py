"""The video transformer of FramePack: a HunyuanVideo-type DiT whose history is packed (arXiv 2504.12626).

One call sees [4x history | 2x history | clean 1x | sampled | image features | text] as one sequence and predicts the
flow of the sampled latents. This file packs, assembles and unpacks; the layers are in its neighbours. It knows
nothing of samplers, guidance or sections. Attribute names are the checkpoint's.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from .attention import AttentionBackend, AttentionFunction, sdpa
from .blocks import DoubleStreamBlock, Lengths, SingleStreamBlock, TokenRefiner
from .embeddings import CleanPatchEmbed, ImageProjection, PatchEmbed, TimeTextEmbed
from .norms import Modulation, modulate
from .rope import pool_table, rope_table, tokens_of
from .step_cache import NoCache, StepCache, TeaCache


class ImageTokens(NamedTuple):
    """Image tokens (B, L, dim) and their rotary table (B, L, 2 * head_dim)."""

    tokens: Tensor
    rope: Tensor


class OutputProjection(nn.Linear):
    """The last linear layer, in float32 on request: the stored weights stay as they are."""

    def forward(self, x: Tensor, in_float32: bool = False) -> Tensor:
        """(B, L, dim) -> (B, L, patch values)."""
        if in_float32:
            return F.linear(x.float(), self.weight.float(), self.bias.float())
        return super().forward(x)


class HunyuanVideoTransformer3DModelPacked(ModelMixin, ConfigMixin):
    """Predicts the flow v of the sampled latents from them, their packed history, a text and an image.

    Attributes:
        high_quality_fp32_output_for_inference: outside training the last projection and the output are float32.
        attention: the attention function in use; change it with `use_attention`.
        step_cache: decides whether a call runs the blocks; change it with `initialize_teacache`.

    Raises ValueError when sizes do not fit together.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int = 16,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        num_layers: int = 20,
        num_single_layers: int = 40,
        num_refiner_layers: int = 2,
        mlp_ratio: float = 4.0,
        patch_size: int = 2,
        patch_size_t: int = 1,
        qk_norm: str = "rms_norm",
        guidance_embeds: bool = True,
        text_embed_dim: int = 4096,
        pooled_projection_dim: int = 768,
        rope_theta: float = 256.0,
        rope_axes_dim: Sequence[int] = (16, 56, 56),
        has_image_proj: bool = False,
        image_proj_dim: int = 1152,
        has_clean_x_embedder: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(attention_head_dim, num_layers, patch_size_t, qk_norm, rope_axes_dim)
        dim = num_attention_heads * attention_head_dim
        hidden = int(dim * mlp_ratio)

        self.x_embedder = PatchEmbed(in_channels, dim, patch_size)
        self.clean_x_embedder = CleanPatchEmbed(in_channels, dim, patch_size) if has_clean_x_embedder else None
        self.image_projection = ImageProjection(image_proj_dim, dim) if has_image_proj else None
        self.context_embedder = TokenRefiner(text_embed_dim, dim, num_attention_heads, num_refiner_layers)
        self.time_text_embed = TimeTextEmbed(pooled_projection_dim, dim, guidance_embeds)
        self.transformer_blocks = nn.ModuleList(
            DoubleStreamBlock(dim, num_attention_heads, hidden) for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleStreamBlock(dim, num_attention_heads, hidden) for _ in range(num_single_layers)
        )
        self.norm_out = Modulation(dim, 2)
        self.proj_out = OutputProjection(dim, patch_size**2 * out_channels)

        self.high_quality_fp32_output_for_inference = True
        self.gradient_checkpointing = False
        self.attention: AttentionFunction = sdpa
        self.step_cache: StepCache = NoCache()

    def use_attention(self, backend: AttentionBackend) -> None:
        """Compute attention with `backend`, as given by `attention.resolve_attention`."""
        self.attention = backend.load()

    def initialize_teacache(
        self, enable_teacache: bool = True, num_steps: int = 25, rel_l1_thresh: float = 0.15
    ) -> None:
        """Begin anew with TeaCache over `num_steps` calls, or switch step caching off."""
        self.step_cache = TeaCache(num_steps, rel_l1_thresh) if enable_teacache else NoCache()

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        pooled_projections: Tensor,
        guidance: Tensor | None,
        latent_indices: Tensor | None = None,
        clean_latents: Tensor | None = None,
        clean_latent_indices: Tensor | None = None,
        clean_latents_2x: Tensor | None = None,
        clean_latent_2x_indices: Tensor | None = None,
        clean_latents_4x: Tensor | None = None,
        clean_latent_4x_indices: Tensor | None = None,
        image_embeddings: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict v (B, C, T, H, W) for the latents `hidden_states` of that shape.

        Args:
            hidden_states: noisy latents in the model's dtype.
            timestep: (B,), sigma * 1000.
            encoder_hidden_states: text (B, L, text_embed_dim).
            encoder_attention_mask: (B, L), true for the valid tokens, which come first.
            pooled_projections: pooled text (B, pooled_projection_dim).
            guidance: (B,), distilled guidance scale * 1000; None for models without guidance_embeds.
            latent_indices: (B, T) time positions; None means 0..T-1.
            clean_latents, clean_latents_2x, clean_latents_4x: history (B, C, n, H, W); None is left out.
            clean_latent_indices, clean_latent_2x_indices, clean_latent_4x_indices: their time positions (B, n).
            image_embeddings: (B, n, image_proj_dim); needed exactly when the model has has_image_proj.
            attention_kwargs: nothing is understood here, so it must be empty.
            return_dict: False gives a tuple of one.
        """
        if attention_kwargs:
            raise ValueError(f"attention_kwargs are not supported, got {sorted(attention_kwargs)}.")
        sampled = self.embed_sampled(hidden_states, latent_indices)
        history = self.embed_history(
            hidden_states,
            {
                4: (clean_latents_4x, clean_latent_4x_indices),
                2: (clean_latents_2x, clean_latent_2x_indices),
                1: (clean_latents, clean_latent_indices),
            },
        )
        packed, rope = (torch.cat(parts, dim=1) for parts in zip(*history, sampled, strict=True))
        temb = self.time_text_embed(timestep, pooled_projections, guidance)
        context, lengths = self.embed_context(encoder_hidden_states, encoder_attention_mask, timestep, image_embeddings)

        image = self.step_cache.run(
            packed,
            modulated_input=lambda: self.transformer_blocks[0].modulated_input(packed, temb),
            blocks=lambda: self.run_blocks(packed, context, temb, rope, lengths),
        )
        out = self.project_out(image[:, -sampled.tokens.shape[1] :], temb, hidden_states.shape)
        return Transformer2DModelOutput(sample=out) if return_dict else (out,)

    def embed_sampled(self, latents: Tensor, indices: Tensor | None) -> ImageTokens:
        """Tokens and rotary table of the latents being sampled."""
        if indices is None:
            indices = torch.arange(latents.shape[2], device=latents.device).unsqueeze(0)
        return ImageTokens(self.x_embedder(latents), self.rope_of(latents, indices, 1))

    def embed_history(
        self, latents: Tensor, history: dict[int, tuple[Tensor | None, Tensor | None]]
    ) -> list[ImageTokens]:
        """Tokens and rotary tables of the clean latents and indices given per factor of coarseness, in that order."""
        parts = []
        for factor, (clean, indices) in history.items():
            if clean is None:
                continue
            if self.clean_x_embedder is None:
                raise ValueError("This model takes no clean latents (has_clean_x_embedder is False).")
            if indices is None:
                raise ValueError(f"Clean latents at {factor}x need their time indices (B, {clean.shape[2]}).")
            clean = clean.to(latents)
            parts.append(ImageTokens(self.clean_x_embedder(clean, factor), self.rope_of(clean, indices, factor)))
        return parts

    def rope_of(self, latents: Tensor, indices: Tensor, factor: int) -> Tensor:
        """Rotary table (B, L, 2 * head_dim) of latents (B, C, T, H, W) in patches `factor` times coarser."""
        batch, _, frames, *size = latents.shape
        if indices.shape[-1] != frames:
            raise ValueError(f"{frames} latent frames at {factor}x need as many time indices, got {indices.shape[-1]}.")
        height, width = (-(-n // self.config.patch_size) for n in size)
        indices = indices.to(latents.device).expand(batch, frames)
        table = rope_table(indices, height, width, self.config.rope_axes_dim, self.config.rope_theta)
        return tokens_of(pool_table(table, factor))

    def embed_context(
        self, text: Tensor, mask: Tensor, timestep: Tensor, image_embeddings: Tensor | None
    ) -> tuple[Tensor, Lengths]:
        """Image features and refined text as one stream (B, L, dim), and each sample's valid tokens in it.

        The lengths are None when every token is valid.
        """
        if (image_embeddings is None) != (self.image_projection is None):
            needs = "needs" if image_embeddings is None else "takes no"
            raise ValueError(f"This model {needs} image_embeddings (has_image_proj is {self.config.has_image_proj}).")
        counts = _valid_tokens(mask)
        longest = max(counts)
        lengths = None if min(counts) == longest else counts
        text, mask = text[:, :longest], mask[:, :longest]
        context = self.context_embedder(text, mask, timestep, self.attention, lengths)
        if self.image_projection is None:
            return context, lengths
        prefix = self.image_projection(image_embeddings)
        lengths = lengths and [prefix.shape[1] + n for n in lengths]
        return torch.cat([prefix, context], dim=1), lengths

    def run_blocks(self, image: Tensor, context: Tensor, temb: Tensor, rope: Tensor, lengths: Lengths) -> Tensor:
        """The image stream (B, L, dim) behind all blocks."""
        image_length = image.shape[1]
        if lengths is not None:
            lengths = [image_length + n for n in lengths]
        rest = (temb, rope, self.attention, lengths)
        for block in self.transformer_blocks:
            image, context = self._call(block, image, context, *rest)
        x = torch.cat([image, context], dim=1)
        for block in self.single_transformer_blocks:
            x = self._call(block, x, *rest)
        return x[:, :image_length]

    def _call(self, block: nn.Module, *args: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)

    def project_out(self, tokens: Tensor, temb: Tensor, shape: torch.Size) -> Tensor:
        """The sampled latents' tokens (B, L, dim) as latents of `shape`."""
        scale, shift = self.norm_out(temb)
        in_float32 = self.high_quality_fp32_output_for_inference and not self.training
        patches = self.proj_out(modulate(tokens, shift, scale), in_float32)
        _, _, frames, height, width = shape
        p = self.config.patch_size
        latents = rearrange(patches, "b (t h w) (c p q) -> b c t (h p) (w q)", t=frames, h=-(-height // p), p=p, q=p)
        return latents[..., :height, :width]


def _valid_tokens(mask: Tensor) -> list[int]:
    """Valid tokens per sample, which must come first: the one place where forward waits for the device."""
    mask = mask.bool()
    counts = mask.sum(1)
    gaps = (mask != (torch.arange(mask.shape[1], device=mask.device) < counts.unsqueeze(1))).any()
    *lengths, broken = torch.cat([counts, gaps.long().unsqueeze(0)]).tolist()
    if broken:
        raise ValueError("The text mask must have each sample's valid tokens first and its padding behind them.")
    return lengths


def _check_sizes(head_dim: int, num_layers: int, patch_size_t: int, qk_norm: str, rope_axes_dim: Sequence[int]) -> None:
    axes = tuple(rope_axes_dim)
    if len(axes) != 3 or sum(axes) != head_dim or any(n % 2 for n in axes):
        raise ValueError(f"rope_axes_dim {axes} must be three even numbers of sum {head_dim} (attention_head_dim).")
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1 (text and image streams join there), got {num_layers}.")
    if patch_size_t != 1:
        raise ValueError(f"patch_size_t must be 1 (one time index per latent frame), got {patch_size_t}.")
    if qk_norm != "rms_norm":
        raise ValueError(f'qk_norm must be "rms_norm", got {qk_norm!r}.')
