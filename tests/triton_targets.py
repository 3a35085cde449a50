"""Compile Triton's kernels for cards that are not here: what would be launched is compiled, and nothing runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction
from triton.runtime.autotuner import Autotuner

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}


@contextmanager
def compiled_for(capability: int) -> Iterator[list[Any]]:
    """Inside, launches compile their kernel for an NVIDIA card and add it to the list; tensors may be meta ones."""
    target, compiled = GPUTarget("cuda", capability, 32), []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
        given = dict(zip(self.arg_names, args, strict=False)) | {k: v for k, v in named.items() if k in self.arg_names}
        fixed = {param.name for param in self.params if param.is_constexpr}
        signature = {name: "constexpr" if name in fixed else _type_of(given[name]) for name in self.arg_names}
        # As at a launch: pointers are aligned, and strides and widths are whole multiples of 16.
        attrs = {
            (i,): [["tt.divisibility", 16]]
            for i, param in enumerate(self.params)
            if param.name not in fixed and not param.do_not_specialize and _is_divisible(given[param.name])
        }
        constants = {name: given[name] for name in fixed}
        options = {name: value for name, value in named.items() if name not in self.arg_names}
        source = ASTSource(self, signature, constants, attrs)
        compiled.append(triton.compile(source, target=target, options=options))

    def run_all(self: Any, *args: Any, **named: Any) -> None:
        for config in self.configs:
            self.fn.run(*args, **named, **config.all_kwargs())

    with patch.object(JITFunction, "run", run), patch.object(Autotuner, "run", run_all):
        yield compiled


def _type_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def _is_divisible(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0)
