"""A whole training step as a CUDA graph: thousands of small kernels in one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Losses = dict[str, Tensor]
MAX_NORM = 1.0


class GraphedStep:
    """Forward pass, backward pass and optimizers' steps; on a GPU one graph for each shape of clips and `first`.

    Args:
        compute: `compute(clips, first)` gives losses; "loss" is the one to lower.
        parameters: to train. Their gradients must stay the same tensors: never set them to None.
        optimizers: on a GPU their rates must be tensors there, and they must not look at any value.
    """

    def __init__(
        self,
        compute: Callable[[Tensor, int], Losses],
        parameters: Sequence[nn.Parameter],
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> None:
        self.compute, self.parameters, self.optimizers = compute, parameters, optimizers
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._graphs: dict[tuple[torch.Size, int], tuple[torch.cuda.CUDAGraph, Tensor, Losses]] = {}

    def __call__(self, clips: Tensor, first: int) -> Losses:
        """Train on a batch; the losses before it, detached. A shape's first batch is trained on three times."""
        if not clips.is_cuda:
            return self._run(clips, first)
        key = clips.shape, first
        if key not in self._graphs:
            self._graphs[key] = self._capture(clips, first)
        graph, static, losses = self._graphs[key]
        static.copy_(clips)
        graph.replay()
        return {name: value.clone() for name, value in losses.items()}

    def _run(self, clips: Tensor, first: int) -> Losses:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=False)
        losses = self.compute(clips, first)
        losses["loss"].backward()
        losses["norm"] = nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _capture(self, clips: Tensor, first: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Losses]:
        static = clips.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._run(static, first)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self._run(static, first)
        return graph, static, losses


def set_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's rate to its `full_rate` times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["full_rate"] * factor)
            else:
                group["lr"] = group["full_rate"] * factor
