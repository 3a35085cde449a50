"""GGUF files as other programs write them; the K types, which the `gguf` package only reads, in the plainest way."""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What llama.cpp takes instead where a row is no multiple of 256."""
BOUNDS = {"Q8_0": 0.01, "Q6_K": 0.025, "Q5_K": 0.045, "Q4_K": 0.09, "Q5_0": 0.045, "Q5_1": 0.045}
"""Relative error (Frobenius norm) of normally distributed weights: about a quarter of a step of the largest of 32."""


def quantised(weight: Tensor, kind: str) -> np.ndarray:
    """The blocks of `weight` (rows, columns), (rows, bytes) uint8."""
    numbers = weight.float().numpy()
    if not kind.endswith("_K"):
        return gguf.quants.quantize(numbers, Type[kind])
    blocks = numbers.reshape(-1, 256).astype(np.float64)
    return (_q6_k(blocks) if kind == "Q6_K" else _q45_k(blocks, 15 if kind == "Q4_K" else 31)).reshape(len(numbers), -1)


def write_gguf(file: Path, tensors: dict[str, Tensor], kind: str, prefix: str = "") -> dict[str, Tensor]:
    """Write `tensors`, matrices as `kind` and the rest in 32 bits; returns the numbers that a reader should find."""
    writer, meant = gguf.GGUFWriter(file, "hyvid"), {}
    for name, tensor in tensors.items():
        numbers = tensor.float().contiguous()
        if tensor.dim() != 2:
            if tensor.dim() > 4:  # the format has four axes
                writer.add_array(f"comfy.gguf.orig_shape.{prefix}{name}", [int(size) for size in tensor.shape])
                writer.add_tensor(prefix + name, numbers.flatten(0, -4).numpy())
            else:
                writer.add_tensor(prefix + name, numbers.numpy())
            meant[name] = numbers
            continue
        fits = [
            one
            for one in (kind, FALLBACK.get(kind, kind))
            if tensor.shape[1] % gguf.GGML_QUANT_SIZES[Type[one]][0] == 0
        ]
        if not fits:
            writer.add_tensor(prefix + name, numbers.half().numpy())
            meant[name] = numbers.half().float()
            continue
        blocks = quantised(tensor, fits[0])
        writer.add_tensor(prefix + name, blocks, raw_dtype=Type[fits[0]])
        meant[name] = torch.from_numpy(gguf.quants.dequantize(blocks, Type[fits[0]]).copy()).view(tensor.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def random_blocks(kind: str, count: int, seed: int = 0) -> np.ndarray:
    """`count` blocks of random bytes, their half-precision numbers finite and of ordinary size."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (count, gguf.GGML_QUANT_SIZES[Type[kind]][1]), dtype=np.uint8)
    for at in {"Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q4_1": (0, 2), "Q5_1": (0, 2)}.get(kind, (0,)):
        raw[:, at : at + 2] = rng.standard_normal(count).astype(np.float16).view(np.uint8).reshape(count, 2)
    return raw


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    groups = blocks.reshape(-1, 16, 16)
    scales = np.abs(groups).max(axis=2) / 31
    d = np.float16(scales.max(axis=1, keepdims=True) / 127)
    small = np.clip(np.round(scales / np.maximum(d.astype(float), 1e-30)), 0, 127)
    step = np.maximum(d * small, 1e-30)[..., None]
    q = (np.clip(np.round(groups / step), -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = q & 15, q >> 4
    ql = np.concatenate([low[:, :, :2] | low[:, :, 2:] << 4], axis=2)
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    parts = ql.reshape(-1, 128), qh.reshape(-1, 64), small.astype(np.int8).view(np.uint8), d.view(np.uint8)
    return np.concatenate(parts, axis=1)


def _q45_k(blocks: np.ndarray, largest: int) -> np.ndarray:
    groups = blocks.reshape(-1, 8, 32)
    minima = np.maximum(-groups.min(axis=2), 0)
    scales = (groups.max(axis=2) + minima) / largest
    d, dmin = (np.float16(x.max(axis=1, keepdims=True) / 63) for x in (scales, minima))
    sc, mn = (
        np.clip(np.round(x / np.maximum(shared.astype(float), 1e-30)), 0, 63).astype(np.uint8)
        for x, shared in ((scales, d), (minima, dmin))
    )
    step = np.maximum(d * sc, 1e-30)[..., None]
    q = np.clip(np.round((groups + (dmin * mn)[..., None]) / step), 0, largest).astype(np.uint8)
    first = [x[:, :4] | x[:, 4:] >> 4 << 6 for x in (sc, mn)]
    packed = np.concatenate([*first, sc[:, 4:] & 15 | (mn[:, 4:] & 15) << 4], axis=1)
    low = (q & 15).reshape(-1, 4, 2, 32)
    parts = [d.view(np.uint8), dmin.view(np.uint8), packed]
    if largest == 31:
        parts.append(np.bitwise_or.reduce((q >> 4) << np.arange(8, dtype=np.uint8)[:, None], axis=1))
    return np.concatenate([*parts, (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128)], axis=1)
