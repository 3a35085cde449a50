"""A whole training step as a CUDA graph: thousands of small kernels in one launch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Losses = dict[str, Tensor]
Inputs = dict[str, Tensor]
MAX_NORM = 1.0


class HalfCopy:
    """A copy of a module in half precision that computes in its place; weights go there and gradients come back.

    Args:
        module: whose parameters are trained, in float32.
        dtype: of the copy.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module = copy.deepcopy(module).to(dtype)
        self._full, self._half = list(module.parameters()), list(self.module.parameters())

    @torch.no_grad()
    def take(self) -> None:
        """Copy the weights."""
        torch._foreach_copy_(self._half, self._full)
        for parameter in self._half:
            parameter.grad = None

    @torch.no_grad()
    def give(self) -> None:
        """Copy the gradients, where there are any, to the module's, which must have been made."""
        pairs = [(full, half) for full, half in zip(self._full, self._half, strict=True) if half.grad is not None]
        torch._foreach_copy_([full.grad for full, _ in pairs], [half.grad for _, half in pairs])


class GraphedStep:
    """Forward pass, backward pass and optimizers' steps; on a GPU one graph for each shape of the inputs.

    Args:
        compute: `compute(inputs, constant)` gives losses; "loss" is the one to lower.
        parameters: to train. Their gradients must stay the same tensors: never set them to None.
        optimizers: on a GPU their rates must be tensors there, and they must not look at any value.
        half: computes in the parameters' place.
    """

    def __init__(
        self,
        compute: Callable[[Inputs, int], Losses],
        parameters: Sequence[nn.Parameter],
        optimizers: Sequence[torch.optim.Optimizer],
        half: HalfCopy | None = None,
    ) -> None:
        self.compute, self.parameters, self.optimizers, self.half = compute, parameters, optimizers, half
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Inputs, Losses]] = {}
        self._memory: Any = None

    def __call__(self, inputs: Inputs, constant: int = 0) -> Losses:
        """Train on a batch; the losses before it, detached. A shape's first batch is trained on three times."""
        if not next(iter(inputs.values())).is_cuda:
            return self._run(inputs, constant)
        key = tuple(value.shape for value in inputs.values()), constant
        if key not in self._graphs:
            self._graphs[key] = self._capture(inputs, constant)
        graph, static, losses = self._graphs[key]
        for name, value in inputs.items():
            static[name].copy_(value)
        graph.replay()
        return {name: value.clone() for name, value in losses.items()}

    def _run(self, inputs: Inputs, constant: int) -> Losses:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=False)
        if self.half:
            self.half.take()
        losses = self.compute(inputs, constant)
        losses["loss"].backward()
        if self.half:
            self.half.give()
        losses["norm"] = nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _capture(self, inputs: Inputs, constant: int) -> tuple[torch.cuda.CUDAGraph, Inputs, Losses]:
        static = {name: value.clone() for name, value in inputs.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._run(static, constant)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self._memory = self._memory or torch.cuda.graph_pool_handle()  # one for all: they never run at once
        with torch.cuda.graph(graph, pool=self._memory):
            losses = self._run(static, constant)
        return graph, static, losses


def set_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's rate to its `full_rate` times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["full_rate"] * factor)
            else:
                group["lr"] = group["full_rate"] * factor
