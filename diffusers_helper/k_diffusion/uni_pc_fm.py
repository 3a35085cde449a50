"""UniPC for flow matching: a multistep predictor-corrector that costs one model call per step.

Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models", arXiv 2302.04867;
the notation is the paper's with alpha = 1 and lambda = -ln sigma. The sampler knows nothing of guidance, dtype or
transformer: it gets `model(x, sigma) -> x0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffusers_helper.core.errors import SettingsError

MAX_ORDER = 3

Model = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """One model call.

    Attributes:
        i: number of the call, from 0.
        x: the corrected state at sigma_i (at call 0 the noise).
        denoised: the model's x0 at sigma_i.
    """

    i: int
    x: Tensor
    denoised: Tensor


@dataclass(frozen=True)
class _Coefficients:
    """Weights of one update from sigma_0 to sigma_t: `base = decay x - phi_1 m_0`, differences scaled by `b`."""

    decay: float
    phi_1: float
    b: float
    ratios: list[float]
    predictor: list[float]
    corrector: list[float]


def unipc_steps(
    model: Model,
    noise: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    variant: str = "bh1",
) -> Generator[Step, None, Tensor]:
    """Sample step by step.

    Args:
        model: called as `model(x, sigma, **extra_args)` with `sigma` of shape (B,); returns x0 shaped like x.
        noise: the state at `sigmas[0]`, (B, ...).
        sigmas: n + 1 falling noise levels; the last, usually 0, is never evaluated.
        extra_args: passed to every model call.
        variant: "bh1" (B = h) or "bh2" (B = expm1(h)).

    Yields a Step right after each of the n model calls; returns the last x0. Raises SettingsError for another variant.
    """
    if variant not in ("bh1", "bh2"):
        raise SettingsError(f"There is no UniPC variant {variant!r}; choose bh1 or bh2.")
    levels = [float(sigma) for sigma in sigmas]
    steps = len(levels) - 1
    call = _bind(model, extra_args or {})

    x, past = noise, [call(noise, levels[0])]  # past: x0 predictions, newest first
    yield Step(0, x, past[0])
    for i in range(1, steps):
        order = min(i, MAX_ORDER, steps - 1)
        c = _coefficients(levels[i - order : i + 1], variant)
        base = c.decay * x - c.phi_1 * past[0]
        differences = [(m - past[0]) / r for m, r in zip(past[1:order], c.ratios, strict=True)]
        m_t = call(base - c.b * _weighted(c.predictor, differences), levels[i])
        x = base - c.b * _weighted(c.corrector, [*differences, m_t - past[0]])
        past = [m_t, *past[: MAX_ORDER - 1]]
        yield Step(i, x, m_t)
    return past[0]


def sample_unipc(  # noqa: PLR0913 - a promised signature
    model: Model,
    noise: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool = False,
    variant: str = "bh1",
) -> Tensor:
    """Sample to the end and return the last x0; see `unipc_steps`.

    Args:
        model, noise, sigmas, extra_args, variant: as for `unipc_steps`.
        callback: called right after each model call with `{"x", "i", "denoised"}`.
        disable: show no progress bar.
    """
    steps = unipc_steps(model, noise, sigmas, extra_args, variant)
    with tqdm(total=len(sigmas) - 1, disable=disable) as bar:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                latents: Tensor = end.value
                return latents
            if callback is not None:
                callback({"x": step.x, "i": step.i, "denoised": step.denoised})
            bar.update()


def _bind(model: Model, extra_args: dict[str, Any]) -> Callable[[Tensor, float], Tensor]:
    def call(x: Tensor, sigma: float) -> Tensor:
        return model(x, x.new_full((x.shape[0],), sigma, dtype=torch.float32), **extra_args)

    return call


def _weighted(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor | float:
    return sum((w * t for w, t in zip(weights, tensors, strict=True)), start=0.0)


def _coefficients(levels: Sequence[float], variant: str) -> _Coefficients:
    """Solve for the update from `levels[-2]` to `levels[-1]`; the earlier levels are the points of the history.

    In float32, as the published samples were made: close levels lose digits here, and float64 would give the more exact
    update but not the same numbers (2e-4 of the latents' spread over 25 steps).
    """
    order = len(levels) - 1
    lambdas = -torch.log(torch.tensor(levels, dtype=torch.float32))
    lambda_0, lambda_t = lambdas[-2], lambdas[-1]
    h = lambda_t - lambda_0
    phi_1 = torch.expm1(-h)
    b = -h if variant == "bh1" else phi_1
    nodes = torch.cat([(lambdas[:-2].flip(0) - lambda_0) / h, torch.ones(1)])

    system = torch.stack([nodes**j for j in range(order)])
    target = torch.stack([phi * math.factorial(j) / b for j, phi in enumerate(_h_phis(-h, order), start=1)])
    return _Coefficients(
        decay=levels[-1] / levels[-2],
        phi_1=phi_1.item(),
        b=b.item(),
        ratios=nodes[:-1].tolist(),
        # The paper fixes the one weight of the predictor at order 2, and of the corrector at order 1, at a half.
        predictor=[0.5] if order == 2 else torch.linalg.solve(system[:-1, :-1], target[:-1]).tolist(),
        corrector=[0.5] if order == 1 else torch.linalg.solve(system, target).tolist(),
    )


def _h_phis(hh: Tensor, order: int) -> list[Tensor]:
    """h_phi_1 = phi_1 / hh - 1 and h_phi_(j+1) = h_phi_j / hh - 1 / (j+1)!, for j up to `order`."""
    phis = [torch.expm1(hh) / hh - 1]
    for j in range(2, order + 1):
        phis.append(phis[-1] / hh - 1 / math.factorial(j))
    return phis
