"""torch's own scaled dot product attention, by the fastest kernel for the card, without ever making an L x L matrix."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel

from .query_chunks import attention_in_pieces

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q, k, v (B, L, heads, head_dim) each -> the same shape, over all L tokens, no mask."""

SCORE_BYTES = 1 << 30
"""Most memory that one piece of an attention matrix may take where no kernel avoids making it."""


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's own scaled dot product attention, on every device in the way that is right there."""
    return attention_on(q.device.type)(q, k, v)


def attention_on(device_type: str) -> AttentionFunction:
    """The way of a type of device."""
    return {"cuda": _by_kernel, "mps": attention_in_pieces}.get(device_type, _whole)


def _whole(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _by_kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """By the fastest kernel for the card.

    Where no kernel takes these inputs, queries go in pieces, so that no L x L matrix is ever made.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if not _has_kernel(q, k, v):
        return by_rows(q, k, v).transpose(1, 2)
    with sdpa_kernel(kernel_order(torch.cuda.get_device_capability(q.device)), set_priority=True):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def by_rows(q: Tensor, k: Tensor, v: Tensor, score_bytes: int = SCORE_BYTES) -> Tensor:
    """Attention over (B, heads, L, head_dim), as many queries at a time as have scores of `score_bytes` in float32."""
    rows = max(1, score_bytes // (4 * q.shape[0] * q.shape[1] * k.shape[2]))
    return torch.cat([F.scaled_dot_product_attention(piece, k, v) for piece in q.split(rows, dim=2)], dim=2)


def kernel_order(capability: tuple[int, int]) -> list[SDPBackend]:
    """torch's kernels for a CUDA card, fastest first.

    On Hopper cuDNN takes 7.0 ms for 18269 tokens and flash 11.0; on older cards cuDNN brings nothing.
    """
    rest = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    return [SDPBackend.CUDNN_ATTENTION, *rest] if capability[0] in (9, 10) else [*rest, SDPBackend.CUDNN_ATTENTION]


def _has_kernel(q: Tensor, k: Tensor, v: Tensor) -> bool:
    given = cuda.SDPAParams(q, k, v, None, 0.0, False, False)
    can_use = (cuda.can_use_cudnn_attention, cuda.can_use_flash_attention, cuda.can_use_efficient_attention)
    return q.is_cuda and any(test(given) for test in can_use)  # which fail where there is no driver to ask
