"""Memory counted without having it: meta tensors, and kernels that make the tensors that the fused ones make."""

import weakref

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusers_helper.models.kernels import PlainKernels


class MemoryPeak(TorchDispatchMode):
    """The most bytes that tensors made inside held at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage not in self._known and id(storage) not in given:
                    self._known.add(storage)
                    self.held += storage.nbytes()
                    self.peak = max(self.peak, self.held)
                    weakref.finalize(storage, self._let_go, storage.nbytes())
        return result

    def _let_go(self, nbytes: int) -> None:
        self.held -= nbytes


class LeanKernels(PlainKernels):
    """As much memory as the fused kernels take, and no numbers."""

    def modulate(self, x, shift, scale):
        return torch.empty_like(x)

    def add_gated(self, x, y, gate):
        return torch.empty_like(x)

    def add_gated_modulate(self, x, y, gate, shift, scale):
        return torch.empty_like(x), torch.empty_like(x)

    def norm_rotate(self, streams):
        first = streams[0].x
        return first.new_empty(len(first), sum(stream.x.shape[1] for stream in streams), *first.shape[2:])

    def join_linear(self, streams, layers):
        return streams[0].new_empty(len(streams[0]), sum(x.shape[1] for x in streams), layers[0].out_features)

    def linear_gelu(self, x, layer):
        return layer(x)

    def linear_of_pair(self, left, right, layer):
        return F.linear(left, layer.weight[:, : left.shape[-1]], layer.bias)

    def channel_sums(self, x):
        return x.new_empty(2, *x.shape[:2], dtype=torch.float64)

    def activate_padded(self, x, affine, out):
        return out

    def add_biased(self, x, y, bias):
        return x

    def unshuffle_phases(self, phases, bias, out):
        return out
