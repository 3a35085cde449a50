"""Attention where torch makes all scores at once: how it is cut at the sizes of videos, and that it stays exact.

The processor stands in for Apple's GPU: the way is chosen by the type of a device, and runs anywhere.
"""

import pytest
import torch
import torch.nn.functional as F

from diffusers_helper.memory.budget import Work
from diffusers_helper.models.query_chunks import Pieces, attention_in_pieces, pieces
from diffusers_helper.models.sdpa import attention_on, sdpa

GIB = 2**30
HEADS = 24
SIZES = {"384x384": (384, 384), "512x448": (512, 448), "640x608": (640, 608), "960x960": (960, 960)}
MANY, FEW = (64 * GIB, 48 * GIB), (1, 1)
"""Memory of a machine, all and free: cuts by the limits of an array alone, and down to single heads."""


def whole(q, k, v):
    return F.scaled_dot_product_attention(*(x.transpose(1, 2).double() for x in (q, k, v))).transpose(1, 2)


def random_qkv(queries, keys, heads=4, dim=32, batch=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    sizes = (queries, keys, keys)
    return [torch.randn(batch, size, heads, dim, generator=generator).mul(2).to(dtype) for size in sizes]


def error(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


def test_the_way_is_chosen_by_the_type_of_device():
    assert attention_on("mps") is attention_in_pieces
    assert attention_on("cpu") is not attention_in_pieces


@pytest.mark.parametrize("total", [8, 16, 24, 36, 64, 128, 512])
@pytest.mark.parametrize("free", [0.02, 0.5, 1.0])
@pytest.mark.parametrize("size", SIZES)
def test_no_array_of_scores_meets_metals_limits(size, total, free):
    keys = Work(*SIZES[size]).tokens
    cut = pieces(HEADS, keys, total * GIB, int(free * total * GIB))
    scores = cut.rows * cut.heads * keys
    assert scores < 2**31
    assert 4 * scores < 2**32
    assert cut.rows * HEADS * keys < 2**31, "nor would all heads at once"
    assert 1024 <= cut.rows <= 2048
    assert cut.rows % 32 == 0
    assert cut.heads == 1 or 8 * scores <= min(total / 16, free * total / 2) * GIB


@pytest.mark.parametrize("keys", [2**20, 2**26, 2**29, 2**30 - 2, 2**30 - 1, 2**30, 2**31, 2**40])
def test_rows_shrink_before_a_single_head_meets_the_limits(keys):
    cut = pieces(HEADS, keys, 512 * GIB, 512 * GIB)
    assert (cut.rows, cut.heads) >= (1, 1)
    assert cut.rows * cut.heads * keys < 2**30 or cut == Pieces(1, 1)


def test_at_640_by_608_the_whole_would_be_wrong_on_metal_and_4896_rows_are_the_most():
    keys = 18_269  # with a text of 40 tokens
    assert HEADS * keys**2 > 2**31
    most = (2**31 - 1) // (HEADS * keys) // 32 * 32
    assert most == 4896
    assert pieces(HEADS, keys, 512 * GIB, 512 * GIB).rows < most


def test_rows_depend_on_the_machine_and_not_on_what_is_free():
    keys = Work(640, 608).tokens
    rows = {pieces(HEADS, keys, 36 * GIB, free * GIB).rows for free in range(37)}
    heads = [pieces(HEADS, keys, 36 * GIB, free * GIB).heads for free in range(37)]
    assert len(rows) == 1
    assert heads == sorted(heads)
    assert (heads[0], heads[-1]) == (1, 15)


LENGTHS = [1, 31, 32, 33, 1023, 1024, 1025, 2048, 2049]


@pytest.mark.parametrize("memory", [MANY, FEW], ids=["many heads", "single heads"])
@pytest.mark.parametrize("queries", LENGTHS)
def test_it_is_softmax_attention_around_the_ends_of_pieces(queries, memory):
    q, k, v = random_qkv(queries, 50)
    out = attention_in_pieces(q, k, v, lambda: memory)
    assert out.shape == q.shape
    assert error(out, whole(q, k, v)) < 1e-6
    assert error(out, sdpa(q, k, v).double()) < 1e-6


@pytest.mark.parametrize("memory", [MANY, FEW], ids=["many heads", "single heads"])
def test_samples_and_strides(memory):
    q, k, v = (x[:, ::2].mT.contiguous().mT for x in random_qkv(80, 90, heads=3, batch=2))
    out = attention_in_pieces(q, k, v, lambda: memory)
    assert out.is_contiguous()
    assert error(out, whole(q, k, v)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    q, k, v = random_qkv(100, 3000, dtype=dtype)
    exact = whole(q, k, v)
    out = attention_in_pieces(q, k, v, lambda: MANY)
    assert out.dtype == dtype
    assert torch.equal(out, attention_in_pieces(q, k, v, lambda: FEW))
    assert error(out, exact) < 1.05 * error(exact.to(dtype), exact)


def test_gradients_pass_through_it():
    q, k, v = (x.requires_grad_() for x in random_qkv(40, 40))
    attention_in_pieces(q, k, v, lambda: FEW).square().sum().backward()
    found = [x.grad.clone() for x in (q, k, v)]
    for x in (q, k, v):
        x.grad = None
    sdpa(q, k, v).square().sum().backward()
    for ours, theirs in zip(found, (q, k, v), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-4, rtol=1e-4)
