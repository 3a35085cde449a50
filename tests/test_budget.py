"""The memory planner: a table of cards and jobs, and sizes counted on real modules."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import nn

from benchmarks.step import PUBLISHED, random_inputs, tokens
from diffusers_helper.encoders.hunyuan import vae_decode
from diffusers_helper.memory.budget import (
    GIB,
    MARGIN,
    MLP_CHUNK,
    SHORT_DECODE,
    WHOLE_DECODE,
    Weights,
    Work,
    budget,
    sentence,
    weights_of,
)
from diffusers_helper.memory.schedule import evenly_spaced
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from diffusers_helper.models.section_context import Conditioning, Modulations, PackedHistory
from diffusers_helper.models.step_caches import STEP_CACHES, TeaCache
from tests.counting import LeanKernels, MemoryPeak
from tests.models import golden_transformer

WORK = Work(640, 608)
TEACACHE = STEP_CACHES["teacache"]
CACHED = replace(WORK, cached_streams=TEACACHE.held_streams, cached_samples=TEACACHE.held_samples)
FULL = Weights([453_000_000] * 20 + [226_600_000] * 40, 828_000_000, 3072)


def test_tokens_are_those_of_the_sequence():
    model = golden_transformer()
    inputs = random_inputs(model, 640, 608, 9, 256, torch.device("cpu"), torch.float32)
    photo = inputs["image_embeddings"].shape[1]
    assert WORK.tokens == tokens(inputs) - photo + 729


def test_sizes_of_the_published_transformer():
    with torch.device("meta"):
        model = HunyuanVideoTransformer3DModelPacked(**PUBLISHED).to(torch.bfloat16)
    weights = weights_of(model)
    assert weights.dim == 3072
    assert weights.blocks[0] == pytest.approx(FULL.blocks[0], rel=0.001)
    assert weights.blocks[-1] == pytest.approx(FULL.blocks[-1], rel=0.001)
    assert weights.beside == pytest.approx(FULL.beside, rel=0.001)
    modulation = (20 * 12 + 40 * 3) * 3072 * (3072 + 1) * 2
    assert sum(weights.blocks) + weights.beside + modulation == pytest.approx(12.874e9 * 2, rel=0.001)


def counted_step(work, mlp_chunk=None, calls=1):
    """Peak bytes beside the weights, of the full width and few blocks."""
    config = PUBLISHED | {"num_layers": 2, "num_single_layers": 3}
    with torch.device("meta"):
        model = HunyuanVideoTransformer3DModelPacked(**config)
        nn.Module.to(model, torch.bfloat16).eval()
        sizes = {"double_blocks": (2, 36864), "single_blocks": (3, 9216)}
        vectors = {kind: (torch.empty(calls, 1, width).bfloat16(),) * n for kind, (n, width) in sizes.items()}
        sampled = work.window * (work.height // 16) * (work.width // 16)
        clean = work.tokens - sampled - 729 - work.text
        text = torch.empty(calls, 1, work.text, 3072).bfloat16()
        modulations = Modulations(**vectors, out=torch.empty(calls, 1, 6144).bfloat16())
        conditioning = Conditioning(modulations, text, torch.empty(1, 729, 3072).bfloat16(), None)
        history = PackedHistory(torch.empty(1, clean, 3072).bfloat16(), torch.empty(1, clean + sampled, 256))
        latents = torch.empty(1, 16, work.window, work.height // 8, work.width // 8).bfloat16()
    execution = Execution(lambda q, k, v: torch.empty_like(q), LeanKernels(), mlp_chunk)
    if work.cached_streams:
        execution.step_cache = AlwaysComputing(calls)
    with torch.inference_mode(), MemoryPeak() as memory:
        for step in range(calls):
            model.denoise(latents, step, conditioning, history, execution)
    return memory.peak


class AlwaysComputing(TeaCache):
    def _must_compute(self, state, current):
        state.previous_input = current
        return True


@pytest.mark.parametrize("mlp_chunk", [None, MLP_CHUNK])
@pytest.mark.parametrize("work", [WORK, CACHED, Work(384, 320)])
def test_the_memory_of_a_step_is_foreseen(work, mlp_chunk):
    counted = counted_step(work, mlp_chunk, calls=3 if work.cached_streams else 1)
    foreseen = work.nbytes(3072, mlp_chunk) - MARGIN
    assert 0.8 * foreseen < counted < foreseen


@pytest.mark.slow
@pytest.mark.parametrize(("tiled", "constant"), [(False, WHOLE_DECODE), (True, SHORT_DECODE)])
def test_the_memory_of_a_decode_is_foreseen(monkeypatch, tiled, constant):
    monkeypatch.setattr("diffusers_helper.models.vae_decoder.sdpa", lambda q, k, v: torch.empty_like(q))
    with torch.device("meta"):
        vae = AutoencoderKLHunyuanVideo().to(torch.float16).eval()
        latents = torch.empty(1, 16, 9, 640 // 8, 608 // 8)
    vae.use_tiling = tiled
    with torch.inference_mode(), MemoryPeak() as memory:
        vae_decode(latents, vae, kernels=LeanKernels())
    assert 0.85 * constant * 640 * 608 < memory.peak < constant * 640 * 608


@pytest.mark.parametrize(
    ("free", "preserved", "work", "expected"),
    [  # places, blocks that stay, MLP chunk, tile_vae, fits
        (3.0, 6.0, WORK, (2, 0, MLP_CHUNK, True, False)),
        (4.0, 6.0, WORK, (3, 0, None, True, True)),
        (6.0, 6.0, WORK, (3, 0, None, True, True)),
        (6.0, 2.0, WORK, (3, 7, None, True, True)),
        (11.0, 6.0, WORK, (3, 11, None, False, True)),
        (23.0, 6.0, WORK, (3, 53, None, False, True)),
        (26.0, 6.0, WORK, (3, 60, None, False, True)),
        (4.0, 6.0, CACHED, (3, 0, None, True, True)),
        (4.0, 6.0, replace(CACHED, cfg=True), (2, 0, None, True, True)),
        (6.0, 6.0, Work(1280, 1216), (3, 0, MLP_CHUNK, True, False)),
        (4.0, 6.0, Work(320, 304), (3, 0, None, False, True)),
    ],
)
def test_what_is_done_to_fit(free, preserved, work, expected):
    plan = budget(int(free * GIB), int(preserved * GIB), work, FULL)
    resident_blocks = evenly_spaced(FULL.blocks, plan.resident_bytes)
    assert (plan.slots, len(resident_blocks), plan.mlp_chunk, plan.tile_vae, plan.fits) == expected
    used = FULL.beside + work.nbytes(3072, plan.mlp_chunk) + sum(FULL.blocks[block] for block in resident_blocks)
    if len(resident_blocks) < 60:
        used += plan.slots * FULL.blocks[0]
    if plan.fits:
        assert used <= plan.free


def test_the_sentence_says_what_was_decided():
    plan = budget(6 * GIB, 6 * GIB, WORK, FULL)
    assert "0 of the model's 60 blocks stay there" in sentence(plan, 60, 0)
    plan = budget(3 * GIB, 6 * GIB, WORK, FULL)
    assert "3.0 GiB free and this job may need 3.7" in sentence(plan, 60, 0)
