import pytest
import torch

from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from diffusers_helper.models.step_caches import (
    NEGATIVE,
    POSITIVE,
    STEP_CACHES,
    CacheInputs,
    NoCache,
    TeaCache,
    cache_inputs,
    new_step_cache,
)
from tests.golden import arguments, golden_meta, load_golden

THRESHOLDS = ["0.15", "0.3"]


@pytest.fixture(scope="module")
def model():
    model = HunyuanVideoTransformer3DModelPacked(**golden_meta()["transformer_config"]).eval()
    model.load_state_dict(load_golden("transformer"))
    return model


@pytest.fixture(scope="module")
def golden():
    return load_golden("teacache")


def call(model, golden, i, **more):
    latents = golden["base"] + i * golden["drift"]
    with torch.inference_mode():
        return model(
            hidden_states=latents, timestep=golden["timesteps"][i : i + 1], **arguments(golden, "fixed"), **more
        ).sample


@pytest.mark.usefixtures("recorded_exp")
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_decisions_and_outputs_are_the_golden_ones(model, golden, threshold):
    model.initialize_teacache(True, num_steps=25, rel_l1_thresh=float(threshold))
    for _ in range(2):  # the call after the last begins anew
        out = torch.cat([call(model, golden, i) for i in range(25)])
        torch.testing.assert_close(out, golden[f"out_{threshold}"], atol=1e-5, rtol=0)
        computed = golden_meta()["teacache"]["thresholds"][threshold]["computed"]
        assert list(map(int, model.execution.step_cache.states[POSITIVE].decisions)) == computed
    assert model.execution.step_cache.passes == {POSITIVE: 2 * sum(computed)}


@pytest.mark.usefixtures("recorded_exp")
def test_branches_that_take_turns_decide_as_each_would_alone(model, golden):
    model.initialize_teacache(num_steps=25, rel_l1_thresh=0.15)
    outputs = {POSITIVE: [], NEGATIVE: []}
    for i in range(25):
        for name, order in ((POSITIVE, i), (NEGATIVE, 24 - i)):
            outputs[name].append(call(model, golden, order, branch=name))
    both = model.execution.step_cache
    torch.testing.assert_close(torch.cat(outputs[POSITIVE]), golden["out_0.15"], atol=1e-5, rtol=0)

    model.initialize_teacache(num_steps=25, rel_l1_thresh=0.15)
    alone = [call(model, golden, 24 - i) for i in range(25)]
    assert torch.equal(torch.cat(outputs[NEGATIVE]), torch.cat(alone))
    assert both.states[NEGATIVE].decisions == model.execution.step_cache.states[POSITIVE].decisions
    assert both.passes == {name: sum(both.states[name].decisions) for name in (POSITIVE, NEGATIVE)}


def test_switching_off_puts_the_plain_path_back(model, golden):
    model.initialize_teacache(False)
    plain = [call(model, golden, i) for i in range(3)]
    assert isinstance(model.execution.step_cache, NoCache)
    assert model.execution.step_cache.passes == {POSITIVE: 3}
    model.initialize_teacache(True, num_steps=3, rel_l1_thresh=100.0)
    cached = [call(model, golden, i) for i in range(3)]
    assert [torch.equal(a, b) for a, b in zip(plain, cached, strict=True)] == [True, False, True]
    model.initialize_teacache(False)
    assert torch.equal(call(model, golden, 1), plain[1])


def drive(cache, inputs, branch=POSITIVE):
    """Feed first inputs; the blocks add 10 times the call's number. Returns which calls ran them, and the outputs."""
    ran, outputs = [], []
    for i, value in enumerate(inputs):

        def blocks(i=i):
            ran.append(i)
            return torch.tensor([11.0 * i])

        outputs.append(
            cache.run(
                torch.tensor([float(i)]),
                branch=branch,
                modulated_input=lambda v=value: torch.tensor([v]),
                blocks=blocks,
            )
        )
    return ran, torch.cat(outputs).tolist()


def test_first_and_last_calls_compute_whatever_the_change_and_skips_add_the_last_residual():
    ran, outputs = drive(TeaCache(num_steps=5, threshold=0.25), [1.0] * 5)
    # No change still counts 0.0961 a call: 0.096, 0.192, 0.288 (computes); the last is forced.
    assert ran == [0, 3, 4]
    assert outputs == [0.0, 1.0, 2.0, 33.0, 44.0]


def test_change_is_measured_from_the_call_before_even_when_that_one_was_skipped():
    # Each step of 6 % counts 0.073: three reach 0.2. From the last computed call, the second would count 0.15.
    ran, _ = drive(TeaCache(num_steps=10, threshold=0.2), [1.06**i for i in range(6)])
    assert ran == [0, 3]


def test_a_finished_run_keeps_no_tensors():
    cache = TeaCache(num_steps=2)
    drive(cache, [1.0])
    assert cache.states[POSITIVE].residual is not None
    drive(cache, [1.0])
    assert (cache.states[POSITIVE].residual, cache.states[POSITIVE].previous_input) == (None, None)


@pytest.mark.parametrize("steps", [1, 2])
def test_short_runs_compute_every_call(steps):
    ran, _ = drive(TeaCache(num_steps=steps, threshold=100.0), [1.0] * 4)
    assert ran == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", STEP_CACHES.values(), ids=lambda kind: kind.name)
def test_passes_are_counted_by_branch(kind):
    cache = kind.make(CacheInputs(4, ratios=(1.0,)))
    drive(cache, [1.0], NEGATIVE)
    drive(cache, [1.0], POSITIVE)
    assert cache.passes == {NEGATIVE: 1, POSITIVE: 1}


def test_calls_that_are_given_an_execution_leave_the_models_own_alone(model, golden):
    model.initialize_teacache(True, num_steps=3)
    given = Execution()
    call(model, golden, 0, execution=given)
    assert given.step_cache.passes == {POSITIVE: 1}
    assert not model.execution.step_cache.passes
    model.initialize_teacache(False)


def test_settings_choose_a_cache_and_its_parameters():
    settings = SamplingSettings(7, step_cache="teacache", cache_parameters={"threshold": 0.3})
    cache = new_step_cache(settings)
    assert (cache.num_steps, cache.threshold) == (7, 0.3)
    assert STEP_CACHES["teacache"].share(cache_inputs(settings)) == 0.5
    assert isinstance(new_step_cache(SamplingSettings()), NoCache)


def test_a_cache_gets_the_sampled_tokens_alone(model, golden):
    class Watching(NoCache):
        def run(self, image, **more):
            out = super().run(image, **more)
            self.shapes = image.shape, out.shape
            return out

    execution = Execution(step_cache=Watching())
    call(model, golden, 0, execution=execution)
    frames, height, width = golden["base"].shape[2:]
    tokens = frames * -(-height // 2) * -(-width // 2)
    assert {shape[1] for shape in execution.step_cache.shapes} == {tokens}
