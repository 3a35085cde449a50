"""Which 8-bit linear layers and attention a device gets, proved by small calls."""

import logging

import torch
from torch import Tensor

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message

from .attention import BACKENDS, resolve_attention
from .eight_bit_attention import EightBitAttention, PlainHeads, PlainInt8Heads, multiplied_codes
from .kernels import PLAIN, Heads, Kernels
from .linears import EightBitLinears
from .rows import FORMS, Form, PlainRows, RowKernels, Rows, rows_of
from .sdpa import sdpa
from .spread import Projections

log = logging.getLogger(__name__)

EXACT = "exact"
NAMES = (EXACT, *FORMS)
"""How linear layers may compute."""
NEEDED = {"fp8": (8, 9), "int8": (8, 0)}
"""Compute capability from which tensor cores multiply these numbers."""
SAVED = {"fp8": 0.19, "int8": 0.30}
"""Which part of an exact step linear layers of these numbers save: fp8 on an H100; int8 predicted for an RTX 3090."""
ATTENTION_SAVED = {"fa3-fp8": 0.11, "triton-int8": 0.21}
"""Which part 8-bit attention saves besides, by its backend: on an H100; predicted for an RTX 3090."""
ATTENTION = tuple(ATTENTION_SAVED)
"""Backends that attend in 8 bits; a device fits at most one of them."""
TOLERANCE = 0.02
"""Relative error (Frobenius norm) against the plain operations that small calls let pass: a code may be another where a
number lies between two."""


def resolve_linears(
    name: str, kernels: Kernels, device: torch.device | str, dtype: torch.dtype
) -> EightBitLinears | None:
    """How the blocks' linear layers compute; None for "exact". `kernels` are those of the exact operations.

    On a CPU products are simulated, for measurements: the numbers are those of a card, the time is not.
    Raises SettingsError for an unknown name and for what the device cannot do.
    """
    if name == EXACT:
        return None
    if name not in FORMS:
        raise SettingsError(
            Message("Linear layers cannot be {name!r}. Choose one of: {names}.", name=name, names=", ".join(NAMES))
        )
    device = torch.device(device)
    reason = None if device.type == "cpu" else misfit(name, device, dtype)
    if reason is None:
        rows = _rows(FORMS[name], kernels)
        reason = reason_against(rows, device, dtype)
        if reason is None:
            log.info("Linear layers multiply %s (%s).", name, type(rows).__name__)
            return EightBitLinears(rows)
    raise SettingsError(
        Message(
            "Linear layers cannot multiply {name} here: {reason}. Choose {exact}.",
            name=name,
            reason=reason,
            exact=EXACT,
        )
    )


def misfit(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the tensor cores of `device` do not multiply numbers of this name; None where they do. Nothing is run."""
    needed = NEEDED[name]
    if device.type != "cuda" or torch.version.hip:
        return "it takes an NVIDIA card"
    if torch.cuda.get_device_capability(device) < needed:
        return f"it takes compute capability {needed[0]}.{needed[1]}"
    return None if dtype == torch.bfloat16 else f"it takes bfloat16, not {dtype}"


def reason_against_linears(name: str, kernels: Kernels, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why numbers of this name gain nothing on a card that multiplies them, after small calls; None where they do."""
    if kernels is PLAIN:
        return "it takes the fused kernels"
    return reason_against(_rows(FORMS[name], kernels), device, dtype)


def _rows(form: Form, kernels: Kernels) -> RowKernels:
    if kernels is PLAIN:
        return PlainRows(form)
    from .triton_kernels import TritonRows

    return TritonRows(form)


def reason_against(rows: RowKernels, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why `rows` cannot be used on `device` in `dtype`, after small calls; None when they can."""
    try:
        error = smoke_error(rows, device, dtype)
    except Exception as failure:  # noqa: BLE001 - a compiler may raise anything; the reason is kept and shown
        return f"{type(failure).__name__}: {failure}"
    # Written so that NaN counts as wrong too.
    return None if error <= TOLERANCE else f"its result is off by {error:.3g} (allowed {TOLERANCE:g})"


@torch.inference_mode()
def smoke_error(kernels: RowKernels, device: torch.device, dtype: torch.dtype) -> float:
    """The largest relative error of `kernels` against the plain ones on the CPU, on small random inputs."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    plain, form = PlainRows(kernels.form), kernels.form
    x, y, left = normal(1, 40, 96), normal(1, 40, 96), normal(1, 40, 32)
    shift, scale, gate = normal(1, 3, 96).split(1, dim=1)
    calls = {
        "rows": (x,),
        "modulate": (x, shift, scale),
        "add_gated_modulate": (x, y, gate, shift, scale),
        "gelu": (x,),
        "beside_gelu": (left, x),
        "product": (rows_of(x[0], form), rows_of(normal(64, 96), form), normal(64), normal(40, 64)),
    }
    errors = []
    for name, arguments in calls.items():
        results = getattr(kernels, name)(*(_on(device, argument) for argument in arguments))
        expected = getattr(plain, name)(*arguments)
        pairs = zip(*(x if isinstance(x, tuple) else (x,) for x in (results, expected)), strict=True)
        errors += [_relative_error(a, b) for a, b in pairs]
    return float(torch.tensor(errors).max())  # unlike Python's max, it passes NaN on


def _on(device: torch.device, value: Tensor | Rows) -> Tensor | Rows:
    if isinstance(value, Rows):
        return Rows(value.codes.to(device), value.scales.to(device))
    return value.to(device)


def _relative_error(result: Tensor | Rows, expected: Tensor | Rows) -> float:
    a, b = (x.numbers(torch.float32) if isinstance(x, Rows) else x.float() for x in (result, expected))
    return float((a.cpu() - b).norm() / b.norm())


def attention_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The backend of `ATTENTION` that is for such a device; the first where none is. Nothing is run."""
    fitting = (name for name in ATTENTION if BACKENDS[name].constraint(device, dtype, head_dim) is None)
    return next(fitting, ATTENTION[0])


def resolve_eight_bit_attention(
    name: str, device: torch.device | str, dtype: torch.dtype, head_dim: int
) -> EightBitAttention:
    """The blocks' attention by a backend of `ATTENTION`; on a CPU simulated, as products are.

    Raises SettingsError where it does not work.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return simulated_attention(name)
    attention = resolve_attention(name, device, dtype, head_dim).load()
    assert isinstance(attention, EightBitAttention)
    return attention


def reason_against_attention(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why a backend of `ATTENTION` cannot attend in blocks on `device`, after small calls; None when it can.

    They are the registry's, and one of streams that it norms and rotates itself.
    """
    backend = BACKENDS[name]
    reason = backend.reason_unavailable(device, dtype, head_dim)
    if reason:
        return reason
    attention = backend.load()
    assert isinstance(attention, EightBitAttention)
    try:
        error = streams_error(attention, device, dtype, head_dim)
    except Exception as failure:  # noqa: BLE001 - a compiler may raise anything; the reason is kept and shown
        return f"{type(failure).__name__}: {failure}"
    return None if error <= backend.tolerance else f"its result is off by {error:.3g} (allowed {backend.tolerance:g})"


@torch.inference_mode()
def streams_error(attention: EightBitAttention, device: torch.device, dtype: torch.dtype, head_dim: int) -> float:
    """Relative error of `attention` over two streams against exact ones on the CPU, on small random inputs."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    rope = torch.cat([normal(1, 150, head_dim).cos(), normal(1, 150, head_dim).sin()], dim=-1).float()
    weight, added = 1 + normal(head_dim) / 10, 1 + normal(head_dim) / 10
    queries, keys = (
        [Heads(normal(1, 170, 2, head_dim), weight, rope), Heads(normal(1, 33, 2, head_dim), added, None)]
        for _ in range(2)
    )
    values = normal(1, 203, 2, head_dim)

    def wide(streams: list[Heads]) -> Tensor:
        return PLAIN.norm_rotate([Heads(x.float(), weight.float(), rope) for x, weight, rope in streams])

    def there(streams: list[Heads]) -> list[Heads]:
        return [
            Heads(x.to(device), weight.to(device), None if rope is None else rope.to(device))
            for x, weight, rope in streams
        ]

    exact = sdpa(wide(queries), wide(keys), values.float()).flatten(2)
    projections = Projections(values.to(device), lambda: there(queries), lambda: there(keys))
    out = attention.attend(projections, None).numbers(torch.float32)
    return float((out.cpu() - exact).norm() / exact.norm())


def simulated_attention(name: str = ATTENTION[0]) -> EightBitAttention:
    """8-bit attention in torch's own operations, for measurements anywhere; slow."""
    return EightBitAttention({"fa3-fp8": PlainHeads, "triton-int8": PlainInt8Heads}[name](), multiplied_codes)
