"""float16: how exact it is, where a block's MLP leaves its range, and the sentence at the first step that follows."""

import copy
import math

import pytest
import torch

from benchmarks import half_precision
from benchmarks.half_precision import CHAINS, STREAMS, WAYS, Geometry, errors, overflows
from diffusers_helper.core.errors import NumericsError
from diffusers_helper.core.events import SectionDone, StepDone
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.wide_kernels import WIDE
from tests.models import golden_transformer
from tests.test_engine import golden_events

SMALL = Geometry(dim=256, heads=2, image=16, text=8)
LARGEST = 65504


@torch.inference_mode()
@pytest.mark.parametrize("kinds", CHAINS.values(), ids=CHAINS)
def test_float32_streams_make_half_precision_as_good_as_its_products(kinds):
    small, large = (errors(kinds, SMALL)[spread] for spread in STREAMS)
    for found in (small, large):
        wide_half, wide_brain, _, _ = (found[way] for way in WAYS)
        assert wide_half < 0.001
        assert wide_brain < 0.006
    assert all(error < 0.02 for error in small.values())
    wide_half, _, half, brain = (large[way] for way in WAYS)
    assert min(half, brain) > 100 * wide_half, "such streams have no room for what a block adds"


@torch.inference_mode()
def test_an_mlp_keeps_its_precision_up_to_the_largest_number_and_is_no_number_beyond():
    for _, most, error in overflows(SMALL, (1, 1000, 15_000, 20_000, 100_000)):
        assert error < 0.001 if most < LARGEST else math.isnan(error), most


def test_the_table_is_printed(capsys):
    half_precision.main(["--tiny"])
    printed = capsys.readouterr().out
    assert all(f"| {name}, streams of 300 | " in printed for name in CHAINS)
    assert "| nan |" in printed


def in_float16(factor):
    """The golden model as cards before Ampere compute it, the products of one block's MLP enlarged."""
    model = copy.deepcopy(golden_transformer(torch.float16))
    model.execution = Execution(kernels=WIDE, stream=torch.float32)
    model.single_transformer_blocks[0].proj_mlp.weight.mul_(factor)
    return {"transformer": model, "dtype": torch.float16, "decode": False}


@torch.inference_mode()
def test_products_that_stay_in_range_make_a_video():
    _, events = golden_events("f1_1", **in_float16(1.0))
    assert any(isinstance(event, SectionDone) for event in events)


@torch.inference_mode()
def test_a_product_out_of_range_is_told_at_the_first_step():
    _, events = golden_events("f1_1", **in_float16(60_000.0))
    seen = []
    with pytest.raises(NumericsError, match=r"^The latents of section 1 of 1 .*computes in float16.*65504.*RTX 30"):
        seen.extend(events)
    assert not any(isinstance(event, StepDone) for event in seen)
