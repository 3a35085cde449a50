"""EasyCache's decisions and numbers, by the golden vectors, and what it asks of the device."""

import json

import pytest
import torch

from diffusers_helper.models.step_caches import NEGATIVE, POSITIVE, EasyCache
from tests.golden import DATA, load_golden

GOLDEN = json.loads((DATA / "cache.json").read_bytes())["easycache"]
STEPS = GOLDEN["steps"]


@pytest.fixture(scope="module")
def golden():
    return load_golden("cache_easycache")


def drive(cache, golden, order=range(STEPS), branch=POSITIVE):
    """Returns for each call whether it was computed, and the outputs."""
    computed, outputs = [], []
    for i in order:
        ran = []

        def compute(i=i, ran=ran):
            ran.append(i)
            return golden["v"][i]

        outputs.append(cache.predict(golden["x"][i], branch=branch, compute=compute))
        computed.append(len(ran))
    return computed, torch.stack(outputs)


@pytest.mark.parametrize("threshold", GOLDEN["thresholds"])
def test_decisions_and_outputs_are_the_golden_ones(golden, threshold):
    cache = EasyCache(STEPS, float(threshold), GOLDEN["first_computed"])
    for _ in range(2):  # the call after the last begins anew
        computed, outputs = drive(cache, golden)
        assert computed == GOLDEN["thresholds"][threshold]["published"]["computed"]
        torch.testing.assert_close(outputs, golden[f"published.{threshold}.out"], atol=1e-6, rtol=0)
        assert not cache.states, "nobody asks again"


def test_branches_that_take_turns_decide_as_each_would_alone(golden):
    cache, backwards = EasyCache(STEPS, 0.12), range(STEPS - 1, -1, -1)
    found = {POSITIVE: [], NEGATIVE: []}
    for i, j in zip(range(STEPS), backwards, strict=True):
        found[POSITIVE].append(drive(cache, golden, [i])[1])
        found[NEGATIVE].append(drive(cache, golden, [j], NEGATIVE)[1])
    for branch, order in ((POSITIVE, range(STEPS)), (NEGATIVE, backwards)):
        assert torch.equal(torch.cat(found[branch]), drive(EasyCache(STEPS, 0.12), golden, order)[1])


@pytest.mark.parametrize(("steps", "first"), [(1, 5), (3, 5), (4, 0)])
def test_short_sections_compute_what_is_needed_to_decide(golden, steps, first):
    computed, _ = drive(EasyCache(steps, 100.0, first), golden, range(steps))
    assert computed == [1] * 2 + [0] * (steps - 3) + [1] if first == 0 else [1] * steps


def test_half_precision_latents_give_the_flows_type(golden):
    cache = EasyCache(6, 100.0, 2)
    for i in range(3):
        latents = golden["x"][i].bfloat16()
        out = cache.predict(latents, branch=POSITIVE, compute=lambda i=i: golden["v"][i])
        assert out.dtype == golden["v"].dtype


def test_each_decision_waits_for_the_device_once(golden, monkeypatch):
    waits = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: waits.append(1) or item(tensor))
    drive(EasyCache(STEPS, 0.12), golden)
    assert len(waits) == STEPS - GOLDEN["first_computed"] - GOLDEN["last_computed"]
