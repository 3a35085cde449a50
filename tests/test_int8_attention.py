"""Attention of int8 queries and keys and float16 values beside float64: in plain torch, and in Triton's interpreter."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import attention_count
from diffusers_helper.core.costs import card_named, step_operations
from diffusers_helper.models.attention import BACKENDS
from diffusers_helper.models.eight_bit import (
    ATTENTION,
    ATTENTION_SAVED,
    reason_against_attention,
    resolve_eight_bit_attention,
    simulated_attention,
)
from diffusers_helper.models.eight_bit_attention import CodedHeads, EightBitAttention, PlainInt8Heads, multiplied_codes
from diffusers_helper.models.kernels import PLAIN, Heads
from diffusers_helper.models.rows import INT8, rows_of
from diffusers_helper.models.spread import Projections

NAME = "triton-int8"


def relative(ours, wanted):
    return ((ours.double() - wanted.double()).norm() / wanted.double().norm()).item()


def exactly(q, k, v):
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    return ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2)


def qkv(length=300, common=0.0, size=128):
    q, k, v = torch.randn(3, 2, length, 2, size).unbind(0)
    return q, k + common * torch.randn(1, 1, 2, size), v


def attention():
    return resolve_eight_bit_attention(NAME, torch.device("cpu"), torch.float32, 128)


@pytest.mark.parametrize("length", [1, 5, 64, 300])
def test_it_is_off_by_about_what_8_bits_cost(length):
    q, k, v = qkv(length)
    assert relative(attention()(q, k, v), exactly(q, k, v)) < 0.015


@pytest.mark.parametrize("common", [3.0, 30.0])
def test_what_keys_and_values_have_in_common_costs_no_precision(common):
    q, k, v = qkv(common=common)
    wanted = exactly(q, k, v)
    assert relative(attention()(q, k, v), wanted) < 0.015
    assert relative(attention()(q, k, v + 100) - 100, wanted) < 0.015, "of values, too"
    rows = rows_of(k, INT8)
    unsmoothed = EightBitAttention(PlainInt8Heads(), multiplied_codes)
    unsmoothed.kernels.normed = lambda q, k: (
        PlainInt8Heads().normed(q, k)[0],
        CodedHeads(rows.codes, rows.scales.squeeze(-1)),
    )
    assert relative(unsmoothed(q, k, v), wanted) > 2 * relative(attention()(q, k, v), wanted)


def test_a_query_of_zeros_attends_to_all_keys_alike():
    q, k, v = qkv()
    q[:, 7], k[:, 9], v[:, 11] = 0, 0, 0
    out = attention()(q, k, v)
    assert relative(out, exactly(q, k, v)) < 0.015
    torch.testing.assert_close(out[:, 7], v.mean(1), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("size", [1e-20, 1e5])
def test_values_of_any_size_fit_float16(size):
    q, k, v = qkv()
    assert relative(attention()(q, k, v * size), exactly(q, k, v * size)) < 0.015


def test_one_large_token_takes_no_precision_from_others():
    q, k, v = qkv()
    q[:, 3] *= 1000
    k[:, 3] *= 100  # the mean of few tokens feels it; so many sampled as there are
    wanted = exactly(q, k, v)
    others = [i for i in range(300) if i != 3]
    assert relative(attention()(q, k, v)[:, others], wanted[:, others]) < 0.06


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (None, None),
        ("queries", "its result is off by"),
        ("keys", "its result is off by"),
        ("values", "its result is off by"),
        ("normed", "its result is off by"),
        ("fails", "ZeroDivisionError"),
    ],
)
def test_small_calls_find_whatever_is_off_in_blocks(monkeypatch, name, broken, reason):
    attention = simulated_attention(name)
    made = getattr(attention.kernels, broken or "", None)

    def worse(*arguments):
        found = made(*arguments)
        return CodedHeads(found.codes, found.scales * 3) if isinstance(found, CodedHeads) else worse_of(found)

    def worse_of(found):
        return tuple(CodedHeads(x.codes, x.scales * 3) if isinstance(x, CodedHeads) else x for x in found)

    if broken == "fails":
        attention.kernels.queries = lambda _: 1 / 0
    elif broken:
        setattr(attention.kernels, broken, worse)
    limits = {"devices": None, "dtypes": None, "head_dims": None, "smoke_lengths": (30,)}
    monkeypatch.setitem(BACKENDS, name, replace(BACKENDS[name], load=lambda: attention, **limits))
    found = reason_against_attention(name, torch.device("cpu"), torch.float32, 32)
    assert found is None if reason is None else reason in found


def test_samples_are_cut_to_their_lengths():
    weight, v = torch.rand(32) + 0.5, torch.randn(2, 40, 3, 32)
    streams = [Heads(torch.randn(2, 40, 3, 32), weight, None)]
    out = (
        attention()
        .attend(Projections(v, partial(list, streams), partial(list, streams)), [40, 23])
        .numbers(torch.float32)
    )
    for i, n in enumerate((40, 23)):
        q = PLAIN.norm_rotate([Heads(streams[0].x[i : i + 1, :n], weight, None)])
        assert relative(out[i : i + 1, :n], exactly(q, q, v[i : i + 1, :n]).flatten(2)) < 0.015


def test_it_is_for_the_cards_where_it_is_a_fifth_faster_by_the_count():
    """What docs and estimates say is what is counted; half of a step is attention, which reaches 0.72 of the rate."""
    assert attention_count.table() in (Path(__file__).parents[1] / "docs" / "performance-log.md").read_text("utf-8")
    built = {rates.cards: rates.faster[0] >= attention_count.WANTED for rates in attention_count.CLASSES}
    assert [cards for cards, faster in built.items() if faster] == [c for c in built if c.startswith("GeForce")]
    card, work = card_named("RTX 3090"), step_operations(18_269)
    share = work.attention / card.attention / (work.attention / card.attention + work.products / card.products)
    assert share * (1 - 1 / attention_count.CLASSES[0].faster[0]) == pytest.approx(ATTENTION_SAVED[NAME], abs=0.01)
    assert card.attention_in_8_bits == pytest.approx(attention_count.CLASSES[0].faster[0], abs=0.02)


INTERPRETED = """
from functools import partial
import torch
from diffusers_helper.models import eight_bit_attention
from diffusers_helper.models.eight_bit_attention import EightBitAttention, PlainInt8Heads, multiplied_codes
from diffusers_helper.models.kernels import PLAIN, Heads
from diffusers_helper.models.spread import Projections
from diffusers_helper.models.triton_kernels import int8_attention
from diffusers_helper.models.triton_kernels.int8_attention import TritonInt8Heads, attend_to_codes
from tests.test_int8_attention import exactly, relative

torch.manual_seed(0)
int8_attention.ROWS = int8_attention.KEYS = 16
eight_bit_attention.SAMPLED = 6
fused = EightBitAttention(TritonInt8Heads(), attend_to_codes)
plain = EightBitAttention(PlainInt8Heads(), multiplied_codes)

def same(ours, wanted):
    torch.testing.assert_close(ours.scales, wanted.scales, atol=0, rtol=1e-5)
    assert (ours.codes.float() - wanted.codes.float()).abs().max() <= 1
    assert (ours.codes != wanted.codes).float().mean() < 0.002

# Keys with much in common, rows of zeros, heads first in memory; a rest of keys, and whole blocks of them.
for length, common in ((20, 20), (16, 0)):
    q, k, v = (torch.randn(1, 2, length, 32).transpose(1, 2) for _ in range(3))
    q[:, 7], k[:, 9], v[:, 11] = 0, 0, 0
    k = k + common * torch.randn(1, 1, 2, 32)
    for ours, wanted in zip(fused.kernels.normed(q, k), plain.kernels.normed(q, k), strict=True):
        same(ours, wanted)
    assert not fused.kernels.normed(q, k)[0].codes[:, 7].any()
    assert relative(fused(q, k, v), exactly(q, k, v)) < 0.015

# Two streams of two samples of two lengths.
angles = torch.rand(2, 8, 32) * 6
rope = torch.cat([angles.cos(), angles.sin()], dim=-1)
q, k = ([Heads(torch.randn(2, 9, 2, 32) + 1, torch.rand(32) + 0.5, rope),
         Heads(torch.randn(2, 3, 2, 32), torch.rand(32) + 0.5, None)] for _ in "qk")
v = torch.randn(2, 12, 2, 32)
same(fused.kernels.queries(q), plain.kernels.queries(q))
same(fused.kernels.keys(k), plain.kernels.keys(k))
(ours, mean), (wanted, plain_mean) = fused.kernels.values(v), plain.kernels.values(v)
assert torch.equal(ours.scales, wanted.scales)
torch.testing.assert_close(mean, plain_mean, atol=1e-6, rtol=1e-5)
torch.testing.assert_close(ours.codes, wanted.codes, atol=0.1, rtol=1e-3)
out = fused.attend(Projections(v, partial(list, q), partial(list, k)), [12, 10]).numbers(torch.float32)
for i, n in enumerate((12, 10)):
    normed = (PLAIN.norm_rotate(x)[i : i + 1, :n] for x in (q, k))
    assert relative(out[i : i + 1, :n], exactly(*normed, v[i : i + 1, :n]).flatten(2)) < 0.015
assert not out[1, 10:].sub(mean[1].flatten()).abs().max() > 1e-6, "padding is nothing but the values' mean"
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="Triton has packages for Linux alone")
def test_kernels_in_triton_s_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", INTERPRETED], env=environment, check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("length", [5, 128, 300, 4097])
def test_it_on_the_gpu(length):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("its products are of compute capability 8.0 and newer")
    from diffusers_helper.models.triton_kernels import TritonInt8Heads, attend_to_codes

    q, k, v = (x.bfloat16().cuda() for x in qkv(length, common=3.0))
    with torch.inference_mode():
        out = EightBitAttention(TritonInt8Heads(), attend_to_codes)(q, k, v)
    assert relative(out.cpu(), exactly(*(x.cpu() for x in (q, k, v)))) < 0.02
