"""The adapter between the sampler's `model(x, sigma) -> x0` and the transformer: flow matching and guidance.

The rounding at this border is part of the method: the checkpoints were made for a state, a timestep and a guidance
rounded to the model's dtype, and a difference x - sigma v taken in float32 from the *rounded* state.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffusers_helper.models.step_caches.base import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from diffusers_helper.models.execution import Execution
    from diffusers_helper.models.section_context import Conditioning, Denoiser, PackedHistory

T_SCALE = 1000.0
"""Timestep of sigma 1."""


def timesteps_of(sigma: Tensor, dtype: torch.dtype, t_scale: float = T_SCALE) -> Tensor:
    """The timesteps that a transformer of `dtype` sees for noise levels of any shape."""
    return (sigma.float() * t_scale).to(dtype)


def fm_wrapper(transformer: nn.Module, t_scale: float = T_SCALE) -> Callable[..., Tensor]:
    """Make `transformer` a model that predicts x0.

    Args:
        transformer: predicts the velocity v = noise - x0.
        t_scale: timestep of sigma 1.

    Returns `model(x, sigma, *, dtype, cfg_scale, cfg_rescale, concat_latent, positive, negative)`: `x` (B, C, T, H,
    W), `sigma` (B,); `dtype` the transformer's; `positive` and `negative` its keyword arguments with and
    against the prompt (`negative` is not run at `cfg_scale` 1); `concat_latent` joins x on the channel axis. The
    result has x's dtype.
    """
    has_step_cache = hasattr(transformer, "execution")  # another's transformer may know no branches

    def model(  # noqa: PLR0913 - k-diffusion's samplers call it with these
        x: Tensor,
        sigma: Tensor,
        *,
        dtype: torch.dtype,
        positive: dict[str, Any],
        negative: dict[str, Any] | None = None,
        cfg_scale: float = 1.0,
        cfg_rescale: float = 0.0,
        concat_latent: Tensor | None = None,
    ) -> Tensor:
        rounded = x.to(dtype)
        hidden = rounded if concat_latent is None else torch.cat([rounded, concat_latent.to(rounded)], dim=1)
        timestep = timesteps_of(sigma, dtype, t_scale)

        def velocity(branch: str, arguments: dict[str, Any]) -> Tensor:
            named = {"branch": branch} if has_step_cache else {}
            given = {"hidden_states": hidden, "timestep": timestep, "return_dict": False, **arguments, **named}
            flow: Tensor = transformer(**given)[0]
            return flow.float()

        v = velocity(POSITIVE, positive)
        if cfg_scale != 1.0:
            if negative is None:
                raise ValueError("Guidance above 1 needs the negative prompt's conditions.")
            v = guide(v, velocity(NEGATIVE, negative), cfg_scale, cfg_rescale)
        return _x0(x, rounded, sigma, v)

    return model


@dataclass(frozen=True, eq=False)
class Guidance:
    """What steers a section's steps.

    Attributes:
        positive, negative: conditions with and against the prompt; without `negative` there is no guidance.
        scale, rescale: see `guide`.
    """

    positive: Conditioning
    negative: Conditioning | None = None
    scale: float = 1.0
    rescale: float = 0.0


def prepared_model(
    denoiser: Denoiser,
    history: Callable[[], PackedHistory],
    guidance: Guidance,
    execution: Execution,
    dtype: torch.dtype,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make `denoiser` a model for one section: the numbers of `fm_wrapper`'s, without its repeated work.

    Args:
        denoiser: the transformer.
        history: gives that of the section, for every step anew.
        guidance: its conditions.
        execution: how to compute.
        dtype: the transformer's.

    Returns `model(x, sigma)` for one run of a sampler: its i-th call is at the i-th timestep of the conditions.
    """
    steps = itertools.count()

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        rounded, step, packed = x.to(dtype), next(steps), history()

        def velocity(branch: str, conditioning: Conditioning) -> Tensor:
            return denoiser.denoise(rounded, step, conditioning, packed, execution, branch).float()

        if guidance.negative is None:
            v = velocity(POSITIVE, guidance.positive)
        else:
            with_prompt = partial(velocity, POSITIVE, guidance.positive)
            against = partial(velocity, NEGATIVE, guidance.negative)
            v = guide(*execution.branches(with_prompt, against), guidance.scale, guidance.rescale)
        return _x0(x, rounded, sigma, v)

    return model


def _x0(x: Tensor, rounded: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
    return (rounded.float() - sigma.float().view(-1, *[1] * (x.ndim - 1)) * v).to(x.dtype)


def guide(v_positive: Tensor, v_negative: Tensor, scale: float, rescale: float) -> Tensor:
    """Classifier-free guidance on the velocity, then scaled back towards the positive one's spread (arXiv 2305.08891).

    Args:
        v_positive, v_negative: velocities (B, C, T, H, W).
        scale: 1 gives the positive velocity.
        rescale: 0 leaves the guided velocity as it is, 1 gives it the positive one's standard deviation per sample.
    """
    v = v_negative + scale * (v_positive - v_negative)
    if rescale == 0.0:
        return v
    axes = tuple(range(1, v.ndim))
    ratio = v_positive.std(dim=axes, keepdim=True) / v.std(dim=axes, keepdim=True)
    return rescale * v * ratio + (1 - rescale) * v
