"""Attention backends: one entry per function, with what it needs and how far its numbers may be off.

A backend is `attention(q, k, v)`: (B, L, heads, head_dim) each -> the same shape, over all L tokens, no mask. Nothing
here is imported or run before it is asked for, and no other library's classes are changed.
"""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message

from . import attention_packages as packages
from .sdpa import AttentionFunction, kernel_order, sdpa

log = logging.getLogger(__name__)

HALF = (torch.float16, torch.bfloat16)
HOPPER = ((9, 0),)

SMOKE_LENGTH = 300
"""Tokens of the call that proves a backend: more than two blocks of 128, and no whole number of them."""
LONG_SMOKE_LENGTH = 4097
"""Of a second call, for kernels that share long sequences out among a card's processors: one token more than blocks."""


@dataclass(frozen=True)
class AttentionBackend:
    """A way to compute attention: `load` imports it lazily, the other fields say what it accepts and how exact it is.

    `tolerance` is the largest relative error (Frobenius norm) against float32 that the smoke calls, one of each of
    `smoke_lengths`, let pass. `module` is what has to be installed beside torch, `family` what a card's name has.
    """

    name: str
    load: Callable[[], AttentionFunction]
    note: str
    module: str | None = None
    devices: tuple[str, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    head_dims: tuple[int, ...] | None = None
    capabilities: tuple[tuple[int, int], ...] | None = None
    family: str | None = None
    tolerance: float = 0.02
    smoke_lengths: tuple[int, ...] = (SMOKE_LENGTH,)

    def constraint(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Why the backend does not fit this device, dtype or head size; None when it does."""
        limits: list[tuple[str, object, Sequence[object] | None]] = [
            ("device type", device.type, self.devices),
            ("dtype", dtype, self.dtypes),
            ("head size", head_dim, self.head_dims),
        ]
        if device.type == "cuda" and self.capabilities is not None:
            versions = tuple(map(_dotted, self.capabilities))
            limits.append(("compute capability", _dotted(torch.cuda.get_device_capability(device)), versions))
        for what, value, allowed in limits:
            if allowed is not None and value not in allowed:
                return f"it takes {what} {' or '.join(map(str, allowed))}, not {value}"
        if device.type == "cuda" and self.family and self.family not in torch.cuda.get_device_name(device):
            return f"it gains something on {self.family} cards alone"
        return None

    def reason_unavailable(self, device: torch.device, dtype: torch.dtype, head_dim: int = 128) -> str | None:
        """Why the backend cannot be used here, after a real call compared with torch's; None when it can."""
        misfit = self.constraint(device, dtype, head_dim)
        if misfit:
            return misfit
        try:
            attention = self.load()
            errors = [_smoke_error(attention, device, dtype, head_dim, length) for length in self.smoke_lengths]
        except Exception as failure:  # noqa: BLE001 - a foreign kernel may raise anything; the reason is kept and shown
            return f"{type(failure).__name__}: {failure}"
        # Written so that NaN fails too.
        wrong = [error for error in errors if not error <= self.tolerance]
        return f"its result is off by {wrong[0]:.3g} (allowed {self.tolerance:g})" if wrong else None

    @property
    def is_installed(self) -> bool:
        """Whether its module is here; it is not imported."""
        return self.module is None or importlib.util.find_spec(self.module) is not None


BACKENDS = {
    backend.name: backend
    for backend in (
        AttentionBackend(
            "fa3",
            packages.load_fa3,
            "FlashAttention-3 (fa3-fwd), exact",
            module="fa3_fwd_interface",
            devices=("cuda",),
            dtypes=(torch.bfloat16,),  # the package is built without float16
            head_dims=(64, 128),
            capabilities=HOPPER,
            smoke_lengths=(SMOKE_LENGTH, LONG_SMOKE_LENGTH),
        ),
        AttentionBackend(
            "cudnn",
            packages.load_cudnn,
            "cuDNN over whole blocks of keys and Triton over the rest, exact",
            module="triton",
            devices=("cuda",),
            dtypes=HALF,
            head_dims=(64, 128),
            capabilities=HOPPER,
        ),
        AttentionBackend("sdpa", packages.load_sdpa, "torch's own, exact"),
        AttentionBackend(
            "fa3-fp8",
            packages.load_fa3_fp8,
            "FlashAttention-3 in float8: lossy",
            module="fa3_fwd_interface",
            devices=("cuda",),
            dtypes=(torch.bfloat16,),
            head_dims=(128,),
            capabilities=HOPPER,
            tolerance=0.1,
        ),
        AttentionBackend(
            "triton-int8",
            packages.load_triton_int8,
            "int8 queries and keys, float16 values: lossy",
            module="triton",
            devices=("cuda",),
            dtypes=(torch.bfloat16,),
            head_dims=(64, 128),
            capabilities=((8, 6), (8, 9)),
            family="GeForce",  # which halve the rate of float32 sums: benchmarks.attention_count
            tolerance=0.03,
            smoke_lengths=(SMOKE_LENGTH, LONG_SMOKE_LENGTH),
        ),
        AttentionBackend(
            "sage",
            packages.load_sage,
            "sageattention 1 or 2, 8 bit inside: lossy",
            module="sageattention",
            devices=("cuda",),
            dtypes=HALF,
            head_dims=(64, 96, 128),
            tolerance=0.1,
            smoke_lengths=(SMOKE_LENGTH, LONG_SMOKE_LENGTH),
        ),
        AttentionBackend(
            "sage3",
            packages.load_sage3,
            "sageattention 3, 4 bit inside: very lossy",
            module="sageattn3",
            devices=("cuda",),
            dtypes=HALF,
            head_dims=(64, 128),
            capabilities=((10, 0), (10, 3), (12, 0), (12, 1)),
            tolerance=0.3,
            smoke_lengths=(SMOKE_LENGTH, LONG_SMOKE_LENGTH),
        ),
        AttentionBackend(
            "flash", packages.load_flash, "flash-attn, exact", "flash_attn", devices=("cuda",), dtypes=HALF
        ),
        AttentionBackend("xformers", packages.load_xformers, "xformers, exact", "xformers", devices=("cuda",)),
    )
}
WITH_TORCH = ("cudnn", "sdpa")
"""The exact backends that come with torch, fastest first."""
AUTO = ("fa3", *WITH_TORCH)
"""The exact ones that are used by themselves where they are."""
NAMES = ("auto", *BACKENDS)


def resolve_attention(
    name: str, device: torch.device | str, dtype: torch.dtype, head_dim: int = 128
) -> AttentionBackend:
    """The backend called `name` ("auto": the exact default), proved by a small call on `device` in `dtype`.

    Raises SettingsError for an unknown name and for a backend that is not installed or does not work here.
    """
    if name not in NAMES:
        raise SettingsError(
            Message(
                "There is no attention backend {name!r}. Choose one of: {names}.", name=name, names=", ".join(NAMES)
            )
        )
    device = torch.device(device)
    for candidate in AUTO if name == "auto" else (name,):
        backend = BACKENDS[candidate]
        reason = backend.reason_unavailable(device, dtype, head_dim)
        if reason is None:
            log.info("Attention: %s (%s).", backend.name, _described(backend, device))
            return backend
        if name != "auto":
            log.warning("Attention backend %s is disabled: %s", name, reason)
        else:
            log.info("Attention is not %s: %s", candidate, reason)
    raise SettingsError(
        Message(
            "The attention backend {name!r} cannot be used here: {reason}. Choose another, such as sdpa.",
            name=name,
            reason=reason,
        )
    )


def expected_attention(name: str, device: torch.device, dtype: torch.dtype, head_dim: int = 128) -> str:
    """What `resolve_attention` will take for `name`, if it works: "auto" as long as that comes with torch.

    Nothing is imported or called: for what a video's numbers depend on, before a model is loaded.
    """
    if name != "auto":
        return name
    installed = (BACKENDS[candidate] for candidate in AUTO if BACKENDS[candidate].is_installed)
    first = next(backend.name for backend in installed if backend.constraint(device, dtype, head_dim) is None)
    return name if first in WITH_TORCH else first


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _described(backend: AttentionBackend, device: torch.device) -> str:
    if backend.name == "sdpa" and device.type == "mps":
        return f"{backend.note}; in pieces of queries, in float32"
    if backend.name != "sdpa" or device.type != "cuda":
        return backend.note
    capability = torch.cuda.get_device_capability(device)
    return f"{backend.note}; by {kernel_order(capability)[0].name.lower()}, compute capability {capability}"


@torch.inference_mode()
def _smoke_error(
    attention: AttentionFunction, device: torch.device, dtype: torch.dtype, head_dim: int, length: int
) -> float:
    """Relative error of `attention` against the processor's in float32, on a random input of `length` tokens."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, length, 2, head_dim, generator=generator).to(dtype) for _ in range(3)]
    exact = sdpa(*(x.float() for x in drawn))
    out = attention(*(x.to(device) for x in drawn))
    if out.shape != exact.shape:
        raise ValueError(f"it gave shape {tuple(out.shape)} for {tuple(exact.shape)}")
    return float((out.float().cpu() - exact).norm() / exact.norm())
