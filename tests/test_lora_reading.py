"""LoRA files of every style against vectors that were made by the formulas in float64, and files that are none."""

import json
import math
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusers_helper.core.errors import LoraError
from diffusers_helper.lora.files import MAX_BYTES, read_file
from diffusers_helper.lora.names import ModuleNames
from diffusers_helper.lora.reading import adapter_of
from tests.golden import DATA, load_golden
from tests.models import golden_transformer

ABOUT = json.loads((DATA / "lora.json").read_text())
CASES, BAD = ABOUT["cases"], ABOUT["bad"]
QUERY = "transformer.transformer_blocks.0.attn.to_q"


@pytest.fixture(scope="module")
def names():
    return ModuleNames(golden_transformer())


def adapters(case, names):
    return [(adapter_of(read_file(DATA / part["file"]), names), part["weight"]) for part in CASES[case]["files"]]


def merged(found):
    """The weights that files change, merged by hand."""
    stored, total = golden_transformer().state_dict(), {}
    for adapter, weight in found:
        for parameter, changes in adapter.changes.items():
            for change in changes:
                total[parameter] = total.get(parameter, 0) + change.delta(stored[parameter], weight)
    return {parameter: stored[parameter] + delta for parameter, delta in total.items()}


@pytest.mark.parametrize("case", CASES)
def test_golden_merged_weights(case, names):
    found = adapters(case, names)
    expected = load_golden(CASES[case]["expected"].removesuffix(".safetensors"))
    ours = merged(found)
    assert ours.keys() == {key.removeprefix("merged.") for key in expected if key.startswith("merged.")}
    assert sorted(ours) == CASES[case].get("parameters", sorted(ours))
    for parameter, weight in ours.items():
        wanted = expected[f"merged.{parameter}"]
        assert (weight - wanted).abs().max() <= 2e-6 * wanted.std(), parameter


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"two_files"}))
def test_what_is_used_and_what_is_left_out(case, names):
    ((adapter, _),) = adapters(case, names)
    skipped = CASES[case]["skipped_by_default"]
    assert adapter.modules == CASES[case]["modules_in_file"]
    assert adapter.matched == adapter.modules - len(skipped)
    assert set(adapter.left_out) == {name.replace(".", "_") for name in skipped}
    assert all(family in adapter.note for family in adapter.left_out)
    assert f"{adapter.matched} of {adapter.modules}" in adapter.note or not skipped


@pytest.mark.parametrize("case", BAD)
def test_golden_bad_files(case, names):
    path = DATA / BAD[case]["file"]
    with pytest.raises(LoraError) as caught:
        adapter_of(read_file(path), names)
    sentence = str(caught.value).replace(".", "_")
    for part in [path.name, *BAD[case]["must_name"]]:
        assert any(name.replace(".", "_") in sentence for name in part.split(" or "))


def pair(module=QUERY, rank=4, rows=32, columns=32, dtype=torch.float32):
    return {
        f"{module}.lora_A.weight": torch.randn(rank, columns).to(dtype),
        f"{module}.lora_B.weight": torch.randn(rows, rank).to(dtype),
    }


def with_number(value, name=f"{QUERY}.lora_A.weight", dtype=torch.float32):
    tensors = pair(dtype=dtype)
    tensors[name].view(-1)[5] = value
    return tensors


def raw(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, end):
    return {f"{QUERY}.lora_A.weight": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


BAD_TENSORS = {
    "NaN": (with_number(math.nan), "NaN or infinite numbers in .*lora_A"),
    "infinity": (with_number(math.inf), "NaN or infinite"),
    "minus infinity in 16 bits": (with_number(-math.inf, dtype=torch.bfloat16), "NaN or infinite"),
    "an alpha that is no number": (pair() | {f"{QUERY}.alpha": torch.tensor(math.nan)}, "NaN or infinite"),
    "an alpha of several numbers": (pair() | {f"{QUERY}.alpha": torch.ones(2)}, "alpha of .* that is no number"),
    "B alone": ({k: v for k, v in pair().items() if "lora_B" in k}, "lora_down is missing"),
    "an alpha alone": ({f"{QUERY}.alpha": torch.ones(())}, "has only alpha"),
    "DoRA's lengths alone": ({f"{QUERY}.dora_scale": torch.ones(32, 1)}, "has only dora_scale"),
    "ranks that differ": (pair() | {f"{QUERY}.lora_B.weight": torch.ones(32, 5)}, "do not fit: 32x5, 4x32"),
    "rank 0": (pair(rank=0), "do not fit"),
    "a factor with one axis": (pair() | {f"{QUERY}.lora_A.weight": torch.ones(128)}, "do not fit"),
    "DoRA's lengths of another size": (pair() | {f"{QUERY}.dora_scale": torch.ones(31, 1)}, "do not fit"),
    "a wider model": (pair(rows=3072, columns=3072), "3072x3072 instead of 32x32"),
    "a difference of another size": ({f"{QUERY}.diff": torch.ones(32, 31)}, "32x31 instead of 32x32"),
    "a bias of another size": ({f"{QUERY}.diff_b": torch.ones(31)}, "31 instead of 32"),
    "half a LoHa": ({f"{QUERY}.hada_w1_a": torch.ones(32, 2)}, "hada_w1_b is missing"),
    "half a LoKr": ({f"{QUERY}.lokr_w1": torch.ones(4, 4)}, "lokr_w2 is missing"),
    "a LoKr of another size": (
        {f"{QUERY}.lokr_w1": torch.ones(4, 4), f"{QUERY}.lokr_w2": torch.ones(8, 4)},
        "32x16 instead of 32x32",
    ),
    "a kind that is not read": (pair() | {f"{QUERY}.lora_mid.weight": torch.ones(4, 4)}, "a kind that is not read"),
    "fused lengths of columns": (
        {
            "double_blocks.0.img_attn.qkv.lora_A.weight": torch.ones(4, 32),
            "double_blocks.0.img_attn.qkv.lora_B.weight": torch.ones(96, 4),
            "double_blocks.0.img_attn.qkv.dora_scale": torch.ones(1, 32),
        },
        "do not fit",
    ),
    "a foreign family": (
        {
            "lora_unet_blocks_0_cross_attn_k.lora_down.weight": torch.ones(4, 32),
            "lora_unet_blocks_0_cross_attn_k.lora_up.weight": torch.ones(32, 4),
        },
        "another model: none of its 1 modules .* blocks_\\*_cross_attn_k",
    ),
    "a whole model": ({"transformer_blocks.0.attn.to_q.weight": torch.ones(32, 32)}, "no LoRA, but other weights"),
    "whole numbers": ({k: v.to(torch.int8) for k, v in pair().items()}, "as I8, which is no kind of number"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_are_no_lora(case, names, tmp_path):
    tensors, sentence = BAD_TENSORS[case]
    save_file(tensors, path := tmp_path / "mine.safetensors")
    with pytest.raises(LoraError, match=f"LoRA mine.safetensors .*{sentence}"):
        adapter_of(read_file(path), names)


BAD_BYTES = {
    "nothing": (b"", "cut short"),
    "no tensors": (raw({}), "is empty"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "not a safetensors file"),
    "a picture as JPEG": (b"\xff\xd8\xff\xe0" + b"\0" * 100, "not a safetensors file|cut short"),
    "a page of the web": (b"<!DOCTYPE html><html></html>", "not a safetensors file"),
    "torch.save's archive": (b"PK\x03\x04" + b"\0" * 100, "is a pickle"),
    "a pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0", "is a pickle"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "a list in place of a header": (raw([1]), "not a safetensors file"),
    "a header that ends too early": (struct.pack("<Q", 1000) + b"{}", "cut short"),
    "a header of 2^62 bytes": (struct.pack("<Q", 2**62) + b"{}", "not a safetensors file"),
    "nested without end": (struct.pack("<Q", 200_000) + b"[" * 200_000, "not a safetensors file"),
    "data that end too early": (raw(entry("F32", [4, 32], 512), b"\0" * 100), "cut short"),
    "data behind the end": (raw(entry("F32", [1, 1], 4), b"\0" * 8), "damaged"),
    "a shape that its bytes do not have": (raw(entry("F32", [4, 32], 4), b"\0" * 4), "damaged"),
    "a negative size": (raw(entry("F32", [-1, 1], 4), b"\0" * 4), "damaged"),
    "a dtype that nobody knows": (raw(entry("F4", [2], 1), b"\0"), "as F4, which is no kind of number"),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bytes_that_are_no_lora(case, tmp_path):
    content, sentence = BAD_BYTES[case]
    (path := tmp_path / "mine.safetensors").write_bytes(content)
    with pytest.raises(LoraError, match=f"LoRA mine.safetensors .*({sentence})"):
        read_file(path)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "circle.safetensors").symlink_to("circle.safetensors")
    for path in [*sorted(tmp_path.iterdir()), tmp_path / "none.safetensors", Path("/dev/zero")]:
        with pytest.raises(LoraError, match="cannot be read"):
            read_file(path)


def test_a_file_larger_than_any_lora_is_not_read(tmp_path):
    """One of zeros, which take no room on the disk."""
    header = raw(entry("F8_E4M3", [2 * MAX_BYTES], 2 * MAX_BYTES))
    (path := tmp_path / "mine.safetensors").write_bytes(header)
    os.truncate(path, len(header) + 2 * MAX_BYTES)
    with pytest.raises(LoraError, match="larger than any LoRA"):
        read_file(path)


def test_a_header_of_odd_length(names, tmp_path):
    tensors = pair()
    header, data, end = {}, b"", 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        data, end = data + tensor.numpy().tobytes(), end + tensor.nbytes
    for spaces in range(8):
        text = json.dumps(header).encode() + b" " * spaces
        (path := tmp_path / f"{spaces}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        found = read_file(path).tensors
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_negative_alpha_is_a_change_the_other_way(names, tmp_path):
    tensors = pair()
    deltas = []
    for alpha in (3.0, -3.0):
        save_file(tensors | {f"{QUERY}.alpha": torch.tensor(alpha)}, path := tmp_path / "mine.safetensors")
        (change,) = adapter_of(read_file(path), names).changes["transformer_blocks.0.attn.to_q.weight"]
        deltas.append(change.delta(torch.zeros(32, 32), 1.0))
    assert torch.equal(deltas[0], -deltas[1])


@pytest.mark.parametrize(
    "metadata",
    ["", "[]", "{", '{"transformer.lora_alpha": "much"}', '{"transformer.alpha_pattern": [1]}', "[" * 100_000],
)
def test_metadata_that_mean_nothing_are_passed_over(metadata, names, tmp_path):
    tensors = pair()
    save_file(tensors, path := tmp_path / "mine.safetensors", metadata={"lora_adapter_metadata": metadata})
    (change,) = adapter_of(read_file(path), names).changes["transformer_blocks.0.attn.to_q.weight"]
    up, down = tensors[f"{QUERY}.lora_B.weight"], tensors[f"{QUERY}.lora_A.weight"]
    assert torch.equal(change.delta(torch.zeros(32, 32), 1.0), up @ down)


def test_each_prefix_and_several(names, tmp_path):
    plain = "transformer_blocks.0.attn.to_q"
    prefixes = ("", "model.diffusion_model.", "base_model.model.transformer.", "lycoris_", "lora_transformer_")
    for prefix in prefixes:
        module = plain.replace(".", "_") if prefix.endswith("_") else plain
        save_file(pair(prefix + module), path := tmp_path / "mine.safetensors")
        assert adapter_of(read_file(path), names).changes.keys() == {f"{plain}.weight"}


def test_a_file_for_several_models_says_what_is_left_out(names, tmp_path):
    others = [f"lora_te1_text_model_encoder_layers_{n}_mlp_fc1" for n in range(12)]
    tensors = pair() | {key: value for other in others for key, value in pair(other).items()}
    save_file(tensors, path := tmp_path / "mine.safetensors")
    adapter = adapter_of(read_file(path), names)
    assert (adapter.matched, adapter.modules) == (1, 13)
    assert adapter.left_out == ("lora_te1_text_model_encoder_layers_*_mlp_fc1",)
