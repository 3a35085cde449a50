"""The video transformer of FramePack: a HunyuanVideo-type DiT whose history is packed (arXiv 2504.12626).

One call sees [4x history | 2x history | clean 1x | sampled | image features | text] as one sequence and predicts the
flow of the sampled latents. This file packs, assembles and unpacks; the layers are in its neighbours. It knows
nothing of samplers, guidance or sections. Attribute names are the checkpoint's.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from diffusers_helper.memory.budget import MLP_CHUNK
from diffusers_helper.memory.devices import retry_on_oom

from .blocks import DoubleStreamBlock, SingleStreamBlock, TokenRefiner
from .embeddings import CleanPatchEmbed, ImageProjection, PatchEmbed, TimeTextEmbed
from .execution import Execution
from .norms import Modulation, modulate
from .rope import pool_table, rope_table, tokens_of
from .section_context import Conditioning, ConditionInputs, Modulations, PackedHistory
from .spread import Lengths
from .step_caches import POSITIVE, NoCache, TeaCache

logger = logging.getLogger(__name__)


class OutputProjection(nn.Linear):
    """The last linear layer, in float32 on request: the stored weights stay as they are."""

    def forward(self, x: Tensor, in_float32: bool = False) -> Tensor:
        """(B, L, dim) -> (B, L, patch values)."""
        if in_float32:
            return F.linear(x.float(), self.weight.float(), self.bias.float())
        return super().forward(x.to(self.weight.dtype))


class HunyuanVideoTransformer3DModelPacked(ModelMixin, ConfigMixin):  # type: ignore[misc]  # they differ in config_name
    """Predicts the flow v of the sampled latents from them, their packed history, a text and an image.

    Attributes:
        high_quality_fp32_output_for_inference: outside training the last projection and the output are float32.
        execution: how calls compute that are given none, those of scripts; see `initialize_teacache`.

    Raises ValueError when sizes do not fit together.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["DoubleStreamBlock", "SingleStreamBlock"]  # type: ignore[assignment,misc]  # None there

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers gives it no types
    def __init__(  # noqa: PLR0913 - a promised signature
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
        rope_theta: float = 256.0,  # noqa: ARG002 - kept in the config, where `rope_of` reads it
        rope_axes_dim: Sequence[int] = (16, 56, 56),
        has_image_proj: bool = False,
        image_proj_dim: int = 1152,
        has_clean_x_embedder: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # diffusers gives it no types
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
        self.execution = Execution()

    def initialize_teacache(
        self, enable_teacache: bool = True, num_steps: int = 25, rel_l1_thresh: float = 0.15
    ) -> None:
        """Let calls without an `execution` begin anew with TeaCache over `num_steps` calls, or switch it off."""
        self.execution.step_cache = TeaCache(num_steps, rel_l1_thresh) if enable_teacache else NoCache()

    def forward(  # noqa: PLR0913 - a promised signature
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
        execution: Execution | None = None,
        branch: str = POSITIVE,
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
            execution: how to compute; None is the model's own.
            branch: of guidance, for the step cache.
        """
        if attention_kwargs:
            raise ValueError(f"attention_kwargs are not supported, got {sorted(attention_kwargs)}.")
        execution = execution or self.execution
        inputs = ConditionInputs(
            encoder_hidden_states, encoder_attention_mask, pooled_projections, guidance, image_embeddings
        )
        conditioning = self.condition(timestep.unsqueeze(0), inputs, execution)
        history = self.pack(
            hidden_states,
            latent_indices,
            {
                4: (clean_latents_4x, clean_latent_4x_indices),
                2: (clean_latents_2x, clean_latent_2x_indices),
                1: (clean_latents, clean_latent_indices),
            },
        )
        out = self.denoise(hidden_states, 0, conditioning, history, execution, branch)
        return Transformer2DModelOutput(sample=out) if return_dict else (out,)

    def condition(self, timesteps: Tensor, inputs: ConditionInputs, execution: Execution) -> Conditioning:
        """What follows from the conditions, for all `timesteps` (S, B) at once.

        It waits for the device once, to count the valid tokens.
        """
        image_embeddings = inputs.image_embeddings
        if (image_embeddings is None) != (self.image_projection is None):
            needs = "needs" if image_embeddings is None else "takes no"
            raise ValueError(
                f"This model {needs} image_embeddings (has_image_proj is {self.config['has_image_proj']})."
            )
        counts = _valid_tokens(inputs.mask)
        longest = max(counts)
        lengths = None if min(counts) == longest else counts
        text, mask = inputs.text[:, :longest], inputs.mask[:, :longest]
        refined = self.refine_text(text, mask, timesteps, lengths, execution)
        picture = None if self.image_projection is None else self.image_projection(image_embeddings)
        if picture is not None and lengths is not None:
            lengths = [picture.shape[1] + n for n in lengths]
        return Conditioning(self.modulations(timesteps, inputs.pooled, inputs.guidance), refined, picture, lengths)

    def refine_text(
        self, text: Tensor, mask: Tensor, timesteps: Tensor, lengths: Lengths, execution: Execution
    ) -> Tensor:
        """Text tokens (S, B, L, dim) for timesteps (S, B), from states (B, L, text_dim)."""
        steps, batch = timesteps.shape
        refined = self.context_embedder(
            text.repeat(steps, 1, 1),
            mask.repeat(steps, 1),
            timesteps.flatten(),
            execution.attention,
            None if lengths is None else [*lengths] * steps,
        )
        tokens: Tensor = refined.unflatten(0, (steps, batch))
        return tokens

    def modulations(self, timesteps: Tensor, pooled: Tensor, guidance: Tensor | None) -> Modulations:
        """Every block's vectors for timesteps (S, B). The modulation weights are read here and nowhere else."""
        steps, batch = timesteps.shape
        if guidance is not None:
            guidance = guidance.repeat(steps)
        temb = self.time_text_embed(timesteps.flatten(), pooled.repeat(steps, 1), guidance).unflatten(0, (steps, batch))
        return Modulations(
            tuple(block.modulation(temb) for block in cast(Iterable[DoubleStreamBlock], self.transformer_blocks)),
            tuple(
                block.modulation(temb) for block in cast(Iterable[SingleStreamBlock], self.single_transformer_blocks)
            ),
            self.norm_out(temb),
        )

    def pack(
        self, sampled: Tensor, indices: Tensor | None, history: Mapping[int, tuple[Tensor | None, Tensor | None]]
    ) -> PackedHistory:
        """The history's tokens and all rotary tables.

        Args:
            sampled: latents (B, C, T, H, W) of the sampled frames' size, dtype and device; their values are not read.
            indices: their time positions (B, T); None means 0..T-1.
            history: clean latents and indices per factor of coarseness, in the order of the sequence.
        """
        if indices is None:
            indices = torch.arange(sampled.shape[2], device=sampled.device).unsqueeze(0)
        tokens, tables = [], []
        for factor, (clean, positions) in history.items():
            if clean is None:
                continue
            if self.clean_x_embedder is None:
                raise ValueError("This model takes no clean latents (has_clean_x_embedder is False).")
            if positions is None:
                raise ValueError(f"Clean latents at {factor}x need their time indices (B, {clean.shape[2]}).")
            clean = clean.to(sampled)
            tokens.append(self.clean_x_embedder(clean, factor))
            tables.append(self.rope_of(clean, positions, factor))
        rope = torch.cat([*tables, self.rope_of(sampled, indices, 1)], dim=1)
        none = sampled.new_empty(sampled.shape[0], 0, self.proj_out.in_features)
        return PackedHistory(torch.cat([none, *tokens], dim=1), rope)

    def denoise(
        self,
        latents: Tensor,
        step: int,
        conditioning: Conditioning,
        history: PackedHistory,
        execution: Execution,
        branch: str = POSITIVE,
    ) -> Tensor:
        """Predict v (B, C, T, H, W) for noisy `latents` of that shape at the step's timestep.

        Gives `forward`'s numbers; it never waits for the device (a step cache may).
        """
        if torch.is_grad_enabled():
            execution = execution.for_gradients()
        return execution.step_cache.predict(
            latents,
            branch=branch,
            compute=lambda: self._predict(latents, step, conditioning, history, execution, branch),
        )

    def _predict(
        self,
        latents: Tensor,
        step: int,
        conditioning: Conditioning,
        history: PackedHistory,
        execution: Execution,
        branch: str,
    ) -> Tensor:
        """`denoise` inside what a step cache does around a whole call."""
        image = execution.as_stream(torch.cat([history.tokens, self.x_embedder(latents)], dim=1))
        block = cast(DoubleStreamBlock, self.transformer_blocks[0])
        first = conditioning.modulations.double_blocks[0][step]
        sampled = image.shape[1] - history.tokens.shape[1]
        tokens = execution.step_cache.run(
            image[:, -sampled:],
            branch=branch,
            modulated_input=lambda: block.modulated_input(image, first, execution.kernels),
            blocks=lambda: self._run_within_memory(image, step, conditioning, history.rope, execution)[:, -sampled:],
        )
        return self.project_out(tokens, conditioning.modulations.out[step], latents.shape)

    def rope_of(self, latents: Tensor, indices: Tensor, factor: int) -> Tensor:
        """Rotary table (B, L, 2 * head_dim) of latents (B, C, T, H, W) in patches `factor` times coarser."""
        batch, _, frames, *size = latents.shape
        if indices.shape[-1] != frames:
            raise ValueError(f"{frames} latent frames at {factor}x need as many time indices, got {indices.shape[-1]}.")
        height, width = (-(-n // self.config["patch_size"]) for n in size)
        indices = indices.to(latents.device).expand(batch, frames)
        table = rope_table(indices, height, width, self.config["rope_axes_dim"], self.config["rope_theta"])
        return tokens_of(pool_table(table, factor))

    def _run_within_memory(
        self, image: Tensor, step: int, conditioning: Conditioning, rope: Tensor, execution: Execution
    ) -> Tensor:
        """`run_blocks`; out of memory, all of it again with chunked MLPs, from now on."""

        def run() -> Tensor:
            return self.run_blocks(image, step, conditioning, rope, execution)

        def run_chunked() -> Tensor:
            logger.warning("Out of GPU memory: this step begins again, with its MLPs %d tokens at a time.", MLP_CHUNK)
            execution.mlp_chunk = MLP_CHUNK
            return run()

        alone = execution.spread.processes == 1  # or the others would wait for what this one has done
        is_last_resort = execution.mlp_chunk is not None or torch.is_grad_enabled() or not alone
        return retry_on_oom(run, None if is_last_resort else run_chunked)

    def run_blocks(
        self, image: Tensor, step: int, conditioning: Conditioning, rope: Tensor, execution: Execution
    ) -> Tensor:
        """The image stream (B, L, dim) behind all blocks."""
        lengths = conditioning.lengths and [image.shape[1] + n for n in conditioning.lengths]
        spread, modulations = execution.spread, conditioning.modulations
        text = execution.as_stream(conditioning.context(step))
        # A part may be as long as before where the whole is not, and what the others have is part of the work.
        whole = image.shape[1], text.shape[1], *(lengths or ())
        image, text, rope = spread.parts(image, text, rope)
        inputs = [image, text, rope, *(m[step] for m in (*modulations.double_blocks, *modulations.single_blocks))]

        def through(inputs: Sequence[Tensor]) -> Tensor:
            return self._through_blocks(inputs, execution, lengths)

        x = through(inputs) if execution.recorder is None else execution.recorder(through, inputs, whole)
        return spread.whole(x[:, : image.shape[1]])

    def _through_blocks(self, inputs: Sequence[Tensor], execution: Execution, lengths: Lengths) -> Tensor:
        """Streams [image | text] behind all blocks, of image, text, rotary table, and each block's modulation."""
        execution.spread.begin()
        image, text, rope, *modulations = inputs
        rest, of_blocks = (rope, execution, lengths), iter(modulations)
        for block in self.transformer_blocks:
            image, text = self._call(block, image, text, next(of_blocks), *rest)
        x = torch.cat([image, text], dim=1)
        for block in self.single_transformer_blocks:
            x = self._call(block, x, next(of_blocks), *rest)
        return x

    def _call(self, block: nn.Module, *args: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *args)  # type: ignore[misc]  # no longer diffusers' None
        return block(*args)

    def project_out(self, tokens: Tensor, modulation: Tensor, shape: torch.Size) -> Tensor:
        """The sampled latents' tokens (B, L, dim), with one step's (B, 2 * dim), as latents of `shape`."""
        scale, shift = modulation.unsqueeze(1).chunk(2, dim=-1)
        in_float32 = self.high_quality_fp32_output_for_inference and not self.training
        patches = self.proj_out(modulate(tokens, shift, scale), in_float32)
        _, _, frames, height, width = shape
        p = self.config["patch_size"]
        latents: Tensor = rearrange(
            patches, "b (t h w) (c p q) -> b c t (h p) (w q)", t=frames, h=-(-height // p), p=p, q=p
        )
        return latents[..., :height, :width]


def _valid_tokens(mask: Tensor) -> list[int]:
    """Valid tokens per sample, which must come first: the one place where the model waits for the device."""
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
