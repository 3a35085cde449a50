"""How each attention backend is imported and called: nothing is before it is asked for.

Loaders raise what an import raises. No other library's classes are changed.
"""

import torch
from torch import Tensor

from .sdpa import AttentionFunction, sdpa


def without_gradients(attention: AttentionFunction) -> AttentionFunction:
    """`attention` of a package that has none; torch's own while they are recorded."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v) if torch.is_grad_enabled() else attention(q, k, v)

    return attend


def load_fa3() -> AttentionFunction:
    """FlashAttention-3's forward."""
    from fa3_fwd_interface import flash_attn_func

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = flash_attn_func(q, k, v)
        result: Tensor = out[0] if isinstance(out, tuple) else out  # older interfaces add the logarithms of the sums
        return result

    return without_gradients(attention)


def load_sdpa() -> AttentionFunction:
    """torch's own."""
    return sdpa


def load_cudnn() -> AttentionFunction:
    """cuDNN's, with a kernel for the rest of the keys."""
    from .triton_kernels import cudnn_attention

    return cudnn_attention


def load_fa3_fp8() -> AttentionFunction:
    """FlashAttention-3's forward in float8."""
    from .eight_bit_attention import EightBitAttention, load_fa3
    from .triton_kernels import TritonHeads

    return EightBitAttention(TritonHeads(), load_fa3())


def load_triton_int8() -> AttentionFunction:
    """The kernel of int8 queries and keys."""
    from .eight_bit_attention import EightBitAttention
    from .triton_kernels import TritonInt8Heads, attend_to_codes

    return EightBitAttention(TritonInt8Heads(), attend_to_codes)


def load_sage() -> AttentionFunction:
    """SageAttention 1 or 2."""
    from sageattention import sageattn

    return without_gradients(lambda q, k, v: sageattn(q, k, v, tensor_layout="NHD", is_causal=False))


def load_sage3() -> AttentionFunction:
    """SageAttention 3."""
    from sageattn3 import sageattn3_blackwell

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # It wants heads first, and takes the keys' mean off them where they lie.
        heads_first = (x.transpose(1, 2).clone(memory_format=torch.contiguous_format) for x in (q, k, v))
        out: Tensor = sageattn3_blackwell(*heads_first, is_causal=False)
        return out.transpose(1, 2)

    return without_gradients(attention)


def load_flash() -> AttentionFunction:
    """FlashAttention-2."""
    from flash_attn import flash_attn_func

    function: AttentionFunction = flash_attn_func
    return function


def load_xformers() -> AttentionFunction:
    """xformers' memory-efficient attention."""
    from xformers.ops import memory_efficient_attention

    function: AttentionFunction = memory_efficient_attention
    return function
