"""Attention backends: one entry per function, with what it needs and how far its numbers may be off.

A backend is `attention(q, k, v)`: (B, L, heads, head_dim) each -> the same shape, over all L tokens, no mask. Nothing
here is imported or run before it is asked for, and no other library's classes are changed.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..framepack.errors import SettingsError

log = logging.getLogger(__name__)

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
HALF = (torch.float16, torch.bfloat16)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's own scaled dot product attention (it chooses the kernel)."""
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _load_sdpa() -> AttentionFunction:
    return sdpa


def _load_sage() -> AttentionFunction:
    from sageattention import sageattn

    return lambda q, k, v: sageattn(q, k, v, tensor_layout="NHD", is_causal=False)


def _load_flash() -> AttentionFunction:
    from flash_attn import flash_attn_func

    return flash_attn_func


def _load_xformers() -> AttentionFunction:
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention


@dataclass(frozen=True)
class AttentionBackend:
    """A way to compute attention: `load` imports it lazily, the other fields say what it accepts and how exact it is.

    `tolerance` is the largest relative error (Frobenius norm) against float32 that the smoke call lets pass.
    """

    name: str
    load: Callable[[], AttentionFunction]
    note: str
    devices: tuple[str, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    head_dims: tuple[int, ...] | None = None
    tolerance: float = 0.02

    def constraint(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Why the backend does not fit this device, dtype or head size; None when it does."""
        limits = (
            ("device type", device.type, self.devices),
            ("dtype", dtype, self.dtypes),
            ("head size", head_dim, self.head_dims),
        )
        for what, value, allowed in limits:
            if allowed is not None and value not in allowed:
                return f"it takes {what} {' or '.join(map(str, allowed))}, not {value}"
        return None

    def reason_unavailable(self, device: torch.device, dtype: torch.dtype, head_dim: int = 128) -> str | None:
        """Why the backend cannot be used here, after a real call compared with torch's; None when it can."""
        misfit = self.constraint(device, dtype, head_dim)
        if misfit:
            return misfit
        try:
            error = _smoke_error(self.load(), device, dtype, head_dim)
        except Exception as failure:  # noqa: BLE001 - a foreign kernel may raise anything; the reason is kept and shown
            return f"{type(failure).__name__}: {failure}"
        # Written so that NaN fails too.
        return None if error <= self.tolerance else f"its result is off by {error:.3g} (allowed {self.tolerance:g})"


BACKENDS = {
    backend.name: backend
    for backend in (
        AttentionBackend("sdpa", _load_sdpa, "torch's own, exact"),
        AttentionBackend(
            "sage",
            _load_sage,
            "sageattention, 8 bit inside: lossy",
            devices=("cuda",),
            dtypes=HALF,
            head_dims=(64, 96, 128),
            tolerance=0.1,
        ),
        AttentionBackend("flash", _load_flash, "flash-attn, exact", devices=("cuda",), dtypes=HALF),
        AttentionBackend("xformers", _load_xformers, "xformers, exact", devices=("cuda",)),
    )
}
NAMES = ("auto", *BACKENDS)


def resolve_attention(
    name: str, device: torch.device | str, dtype: torch.dtype, head_dim: int = 128
) -> AttentionBackend:
    """The backend called `name` ("auto": the exact default), proved by a small call on `device` in `dtype`.

    Raises SettingsError for an unknown name and for a backend that is not installed or does not work here.
    """
    if name not in NAMES:
        raise SettingsError(f"There is no attention backend {name!r}. Choose one of: {', '.join(NAMES)}.")
    backend = BACKENDS["sdpa" if name == "auto" else name]
    reason = backend.reason_unavailable(torch.device(device), dtype, head_dim)
    if reason is None:
        return backend
    log.warning("Attention backend %s is disabled: %s", name, reason)
    raise SettingsError(f"The attention backend {name!r} cannot be used here: {reason}. Choose another, such as sdpa.")


def _smoke_error(attention: AttentionFunction, device: torch.device, dtype: torch.dtype, head_dim: int) -> float:
    """Relative error of `attention` against float32 torch attention on a small random input."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 128, 2, head_dim, generator=generator).to(device, dtype) for _ in range(3))
    exact = sdpa(q.float(), k.float(), v.float())
    out = attention(q, k, v)
    if out.shape != q.shape:
        raise ValueError(f"it gave shape {tuple(out.shape)} for {tuple(q.shape)}")
    return ((out.float() - exact).norm() / exact.norm()).item()
