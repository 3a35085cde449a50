"""GGUF weights: expanded to the bits of the `gguf` package's own numbers, and read from files, whole and damaged."""

import struct

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffusers_helper.model_files.gguf_files import BLOCKS as SIZES
from diffusers_helper.model_files.headers import bytes_of, numbers_at_once, read_tensors
from diffusers_helper.models.gguf import GgufLinear
from diffusers_helper.models.gguf_blocks import BLOCKS, expand_blocks
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import PLAIN
from tests.gguf_writing import BOUNDS, Type, quantised, random_blocks, write_gguf

KINDS = sorted(BLOCKS)


def test_sizes_are_the_formats():
    for kind in KINDS:
        assert gguf.GGML_QUANT_SIZES[Type[kind]] == SIZES[kind] == BLOCKS[kind][:2]
        numbers, nbytes = SIZES[kind]
        assert bytes_of(kind, 3 * numbers) == 3 * nbytes
        assert numbers_at_once(kind, 3 * nbytes + 1) == 3 * numbers
        assert numbers_at_once(kind, 1) == numbers
    assert SIZES.keys() == BLOCKS.keys()


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 21])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_numbers_are_the_packages_bit_for_bit(kind, at_once):
    raw = random_blocks(kind, 50)
    expected = torch.from_numpy(gguf.quants.dequantize(raw, Type[kind]).copy()).flatten()
    out = torch.empty(50 * BLOCKS[kind].numbers)
    expand_blocks(kind, torch.from_numpy(raw), out, at_once)
    assert torch.equal(out.view(torch.int32), expected.view(torch.int32))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_expands_to_the_same_bits(kind, dtype):
    raw, shape = torch.from_numpy(random_blocks(kind, 10_000)), (10_000, BLOCKS[kind].numbers)
    expected = expand_blocks(kind, raw, torch.empty(shape, dtype=dtype))
    fused = resolve_kernels("cuda", torch.bfloat16)
    assert fused is not PLAIN
    for kernels in (PLAIN, fused):
        found = kernels.expand_blocks(kind, raw.cuda(), torch.empty(shape, dtype=dtype, device="cuda"))
        assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_computes_with_the_expanded_weight_rounded_once(kind, bias, dtype):
    layer = GgufLinear(nn.Linear(512, 6, bias=bias, dtype=dtype), kind)
    raw = random_blocks(kind, 6 * 512 // BLOCKS[kind].numbers)
    layer.blocks = torch.from_numpy(raw).view(6, -1)
    stored = torch.from_numpy(gguf.quants.dequantize(raw, Type[kind]).copy()).view(6, 512).to(dtype)
    assert torch.equal(layer.weight, stored)
    x = torch.randn(3, 512).to(dtype)
    assert torch.equal(layer(x), F.linear(x, stored, layer.bias))
    assert layer.state_dict().keys() == {"blocks"} | ({"bias"} if bias else set())


@pytest.mark.parametrize("kind", BOUNDS)
def test_the_rounding_of_each_type_is_within_its_bound(kind):
    weight = torch.randn(16, 512)
    expanded = gguf.quants.dequantize(quantised(weight, kind), Type[kind])
    assert np.linalg.norm(expanded - weight.numpy()) < BOUNDS[kind] * weight.norm()


def test_a_files_tensors_are_listed_with_shapes_and_places(tmp_path):
    tensors = {"a.weight": torch.randn(4, 256), "b": torch.randn(5), "c": torch.randn(2, 3, 2, 2, 2)}
    write_gguf(tmp_path / "x.gguf", tensors, "Q4_K", prefix="model.diffusion_model.")
    found = {
        name.removeprefix("model.diffusion_model."): entry for name, entry in read_tensors(tmp_path / "x.gguf").items()
    }
    assert {name: (entry["dtype"], entry["shape"]) for name, entry in found.items()} == {
        "a.weight": ("Q4_K", [4, 256]),
        "b": ("F32", [5]),
        "c": ("F32", [2, 3, 2, 2, 2]),
    }
    first, last = found["b"]["data_offsets"]
    assert (tmp_path / "x.gguf").read_bytes()[first:last] == tensors["b"].numpy().tobytes()


def whole(tmp_path):
    write_gguf(tmp_path / "whole.gguf", {"a.weight": torch.randn(4, 256)}, "Q4_K")
    return (tmp_path / "whole.gguf").read_bytes()


def endless(_content):
    """A list of 2**60 bytes in a file that has none of them."""
    key = b"general.x"
    return b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, len(key)) + key + struct.pack("<IIQ", 9, 0, 1 << 60)


def nested(_content):
    key = b"general.x"
    start = b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, len(key)) + key + struct.pack("<I", 9)
    return start + struct.pack("<IQ", 9, 1) * 5000


Q4_K_AT_0 = struct.pack("<IQ", 12, 0)
DAMAGES = {
    "empty": lambda _: b"GGUF",
    "cut in the header": lambda content: content[:60],
    "cut in a tensor": lambda content: content[:-100],
    "another version": lambda content: content[:4] + struct.pack("<I", 99) + content[8:],
    "a type that does not exist": lambda content: content.replace(
        struct.pack("<IQ", 12, 0), struct.pack("<IQ", 9999, 0)
    ),
    "a name that is no text": lambda content: content.replace(b"a.weight", b"\xff" * 8),
    "endless": endless,
    "nested": nested,
    "noise": lambda content: b"GGUF" + np.random.default_rng(0).bytes(1000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_sentence(tmp_path, damage):
    (tmp_path / "x.gguf").write_bytes(DAMAGES[damage](whole(tmp_path)))
    with pytest.raises(ValueError, match="is damaged or cut short, or no GGUF file"):
        read_tensors(tmp_path / "x.gguf")


def test_the_other_order_of_bytes_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "hyvid", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("a", np.ones(8, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(ValueError, match="another order of bytes"):
        read_tensors(tmp_path / "x.gguf")


def test_a_shape_that_is_not_the_tensors_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "hyvid")
    writer.add_array("comfy.gguf.orig_shape.a", [3, 3])
    writer.add_tensor("a", np.zeros(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="does not describe a as it should"):
        read_tensors(tmp_path / "x.gguf")
