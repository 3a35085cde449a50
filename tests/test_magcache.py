"""Which steps MagCache computes, what it adds at the others, and that a skipped step moves no weights."""

import copy
import json

import pytest
import torch

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.memory import DynamicSwapInstaller
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.step_caches import (
    NEGATIVE,
    POSITIVE,
    STEP_CACHES,
    CacheInputs,
    MagCache,
    new_step_cache,
)
from diffusers_helper.models.step_caches.calibration import Recorder
from diffusers_helper.models.step_caches.magcache import PUBLISHED, computed_steps
from tests.golden import DATA
from tests.gpus import PatientGpu
from tests.models import golden_transformer
from tests.test_hunyuan_video_packed import random_inputs

GOLDEN = json.loads((DATA / "cache.json").read_bytes())["magcache"]
NAMES = {"base": "original", "f1": "f1"}


def parameters(case):
    return {"error": case["E"], "skips": case["K"], "retention": case["R"]}


def test_the_published_ratios_are_the_golden_ones():
    assert {name: list(PUBLISHED[NAMES[name]]) for name in NAMES} == GOLDEN["ratios"]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: "{ratios}-{steps}-{E}-{K}-{R}".format(**case))
def test_computed_steps_are_the_golden_ones(case):
    inputs = CacheInputs(case["steps"], PUBLISHED[NAMES[case["ratios"]]], parameters(case))
    assert list(STEP_CACHES["magcache"].make(inputs).computed) == case["computed"]
    assert STEP_CACHES["magcache"].share(inputs) == len(case["computed"]) / case["steps"]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_begin_with_a_computed_one(steps):
    assert computed_steps(PUBLISHED["f1"], steps, error=9, skips=9, retention=0)[0] == 0


def test_a_model_that_nobody_measured_is_refused_with_what_to_do():
    with pytest.raises(SettingsError, match=r"run \./framepack calibrate"):
        STEP_CACHES["magcache"].make(CacheInputs(25))


def drive(cache, added, branch=POSITIVE):
    """Feed streams that count the calls; the blocks add `added[i]`. Returns what ran, and what was added."""
    ran, found = [], []
    for i, value in enumerate(added):
        image = torch.tensor([float(i)])

        def blocks(i=i, image=image, value=value):
            ran.append(i)
            return image + value

        found.append((cache.run(image, branch=branch, modulated_input=pytest.fail, blocks=blocks) - image).item())
    return ran, found


def test_a_skipped_step_adds_what_the_last_computed_one_added_and_every_section_begins_anew():
    cache = MagCache([0, 2], 4)
    for _ in range(2):
        assert drive(cache, [1.0, 9.0, 3.0, 9.0]) == ([0, 2], [1.0, 1.0, 3.0, 3.0])
        assert not cache.states
    assert cache.passes == {POSITIVE: 4}


def test_residuals_are_extrapolated_from_the_last_two():
    cache = MagCache([0, 2, 5], 8, extrapolate=True)
    ran, added = drive(cache, [1.0, 9.0, 3.0, 9.0, 9.0, 0.0, 9.0, 9.0])
    assert ran == [0, 2, 5]
    assert added == [1.0, 1.0, 3.0, 4.0, 5.0, 0.0, -1.0, -2.0]


@pytest.mark.parametrize("quality", ["steady", "quick", "draft"])
def test_a_rung_extrapolates_where_numbers_are_exact_alone(quality):
    settings = sampling_settings(GenerationRequest(quality=quality))
    ratios = PUBLISHED["f1"]
    exact, in_8_bits = (new_step_cache(settings, ratios, in_8_bits=there) for there in (False, True))
    assert (exact.extrapolate, in_8_bits.extrapolate) == (True, False)
    assert exact.computed == in_8_bits.computed


def test_branches_keep_to_themselves():
    cache, found = MagCache([0, 2], 3), {POSITIVE: [], NEGATIVE: []}
    for i in range(3):
        for branch, value in ((POSITIVE, 1.0 + i), (NEGATIVE, -1.0 - i)):
            image = torch.zeros(1)
            out = cache.run(
                image, branch=branch, modulated_input=pytest.fail, blocks=lambda image=image, v=value: image + v
            )
            found[branch].append(out.item())
    assert found == {POSITIVE: [1.0, 1.0, 3.0], NEGATIVE: [-1.0, -1.0, -3.0]}


def test_while_the_blocks_run_the_last_residual_is_not_held():
    cache = MagCache([0, 1], 3)
    image = torch.zeros(1)
    cache.run(image, branch=POSITIVE, modulated_input=pytest.fail, blocks=lambda: image + 1)

    def blocks():
        assert cache.states[POSITIVE].residual is None
        return image + 2

    cache.run(image, branch=POSITIVE, modulated_input=pytest.fail, blocks=blocks)
    assert cache.states[POSITIVE].residual.item() == 2


@torch.inference_mode()
def test_a_skipped_step_moves_no_weights_and_the_next_one_finds_its_first_blocks_there():
    model = copy.deepcopy(golden_transformer()).requires_grad_(False)  # other tests swap theirs in their own way
    inputs = random_inputs(model)
    plain = model(**inputs).sample
    gpu = PatientGpu()
    DynamicSwapInstaller.install_model(model, "cpu", streams=gpu)
    prefetcher = DynamicSwapInstaller.prefetcher_of(model)
    execution = Execution(step_cache=MagCache([0, 3, 4], 6))
    sent = []
    for _ in range(6):
        before = prefetcher.bytes_sent
        out = model(**inputs, execution=execution).sample
        sent.append(prefetcher.bytes_sent - before)
        torch.testing.assert_close(out, plain, atol=1e-5, rtol=0)  # the same input: the last residual is right
    everything, ahead = sum(prefetcher.sizes), sum(prefetcher.sizes[:2])
    assert sent[0] > everything - ahead, "all blocks, and the first of the next step ahead of it"
    assert [bytes_sent == 0 for bytes_sent in sent] == [False, True, True, False, False, True]
    assert sent[3] == sent[4] == everything, "what is there already is not sent again"


def test_a_recorder_measures_sizes_and_directions_over_sections():
    recorder = Recorder(3)
    image = torch.zeros(1, 2, 2)
    residuals = [[[3.0, 4.0], [0.0, 1.0]], [[6.0, 8.0], [0.0, 1.0]], [[-6.0, -8.0], [1.0, 0.0]]]
    for section in range(2):
        for residual in residuals:
            scaled = torch.tensor([residual]) * (1 + section)
            recorder.run(image, branch=POSITIVE, modulated_input=pytest.fail, blocks=lambda r=scaled: r)
    recorder.run(image, branch=NEGATIVE, modulated_input=pytest.fail, blocks=lambda: image)
    found = recorder.calibration
    assert found.ratios == pytest.approx((1, 1.5, 1))
    assert found.spread == pytest.approx((0, 0.5**0.5, 0), abs=1e-6)
    assert found.turn == pytest.approx((0, 0, 1.5), abs=1e-6)
    assert recorder.passes == {POSITIVE: 6, NEGATIVE: 1}


def test_a_recorder_without_a_whole_section_says_so():
    with pytest.raises(ValueError, match="No section"):
        _ = Recorder(3).calibration
