"""Muon (Jordan et al., 2024) for matrices and convolution kernels, in batches of equal shapes.

The step is the momentum's nearest matrix with orthogonal rows, by five Newton-Schulz steps, scaled to the size of
AdamW's steps (Liu et al., arXiv 2502.16982). torch's own takes matrices alone, and one at a time: at small widths the
launches of its kernels take longer than the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SWEEPS = 5


class Muon(torch.optim.Optimizer):
    """Takes parameters of two axes or more; all but the first count as one.

    Args:
        params: matrices (out, in), kernels (out, in, ...).
        lr: in AdamW's measure; a tensor where the step goes into a CUDA graph.
        momentum: of the moving average of gradients, in Nesterov's form.
        weight_decay: decoupled.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float | Tensor, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - torch's signature
        """Change every parameter that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.flatten(1).shape].append(parameter)
            for shape, parameters in alike.items():
                self._step(parameters, shape, group)

    def _step(self, parameters: list[Tensor], shape: torch.Size, group: dict[str, Any]) -> None:
        gradients = torch.stack([p.grad.flatten(1) for p in parameters])  # type: ignore[union-attr]
        state = self.state[parameters[0]]
        if "average" not in state:
            state["average"] = torch.zeros_like(gradients)
        average = state["average"].lerp_(gradients, 1 - group["momentum"])
        steps = orthogonal(gradients.lerp(average, group["momentum"]))
        steps = steps * (-group["lr"] * 0.2 * max(shape) ** 0.5)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, [step.view_as(p) for step, p in zip(steps, parameters, strict=True)])


def muon_and_adam(
    matrices: list[nn.Parameter],
    others: list[nn.Parameter],
    rates: tuple[float, float],
    *,
    betas: tuple[float, float],
    momentum: float = 0.95,
    weight_decay: float = 0.0,
) -> list[torch.optim.Optimizer]:
    """Muon for `matrices` and AdamW for `others`, fit for a CUDA graph; groups know their `full_rate`."""
    on_gpu = others[0].is_cuda
    first, second = (torch.tensor(rate, device=others[0].device) if on_gpu else rate for rate in rates)
    muon = Muon(matrices, lr=first, momentum=momentum, weight_decay=weight_decay)
    adam = torch.optim.AdamW(others, lr=second, betas=betas, weight_decay=0.0, capturable=on_gpu)
    for optimizer, rate in ((muon, rates[0]), (adam, rates[1])):
        for group in optimizer.param_groups:
            group["full_rate"] = rate
    return [muon, adam]


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, r, c) to ones whose singular values all lie near 1, float32; computed in bfloat16 on a GPU."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(SWEEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float()
