"""Fused kernels for NVIDIA and AMD cards: every tensor is read once and written once, numbers are float32 in between.

Imported only where Triton is, by `kernel_selection`. Their meaning is written in `kernels.PlainKernels`.
Triton compiles each kernel once per kind of input, in a second or two, and keeps the result on disk. Numbers of tokens
and pixels are not specialised on, so that another text or bucket compiles nothing.
"""

from .attention import add_rest, cudnn_attention
from .heads import TritonHeads
from .int8_attention import TritonInt8Heads, attend_to_codes
from .rows import TritonRows
from .transformer import TritonKernels

__all__ = [
    "TritonHeads",
    "TritonInt8Heads",
    "TritonKernels",
    "TritonRows",
    "add_rest",
    "attend_to_codes",
    "cudnn_attention",
]
