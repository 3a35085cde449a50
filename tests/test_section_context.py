"""What is computed once: counted, and equal to what a plain call computes every time."""

from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from diffusers_helper.k_diffusion.wrapper import Guidance, fm_wrapper, prepared_model, timesteps_of
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import PLAIN
from diffusers_helper.models.norms import Modulation
from diffusers_helper.models.section_context import ConditionInputs
from tests.golden import golden_meta
from tests.models import golden_transformer
from tests.test_engine import golden_events
from tests.test_hunyuan_video_packed import build, random_inputs, run

VIDEOS = golden_meta()["video"]
CONDITIONS = ("encoder_hidden_states", "encoder_attention_mask", "pooled_projections", "guidance", "image_embeddings")


def condition(model, inputs, timesteps):
    return model.condition(timesteps, ConditionInputs(*(inputs.get(name) for name in CONDITIONS)), model.execution)


def pack(model, inputs):
    parts = {4: "_4x", 2: "_2x", 1: ""}
    history = {
        factor: (inputs[f"clean_latents{suffix}"], inputs[f"clean_latent{suffix}_indices"])
        for factor, suffix in parts.items()
    }
    return model.pack(inputs["hidden_states"], inputs["latent_indices"], history)


@pytest.mark.parametrize("name", ["i2v_3", "f1_3", "i2v_2_cfg"])
def test_constants_are_computed_once(name):
    model, calls = golden_transformer(), Counter()
    once_per_video = [model.image_projection, model.context_embedder, model.time_text_embed]
    once_per_video += [module for module in model.modules() if isinstance(module, Modulation)]
    once_per_section = [model.clean_x_embedder]
    refiner = {module for module in model.context_embedder.modules() if isinstance(module, Modulation)}
    handles = [
        module.register_forward_hook(lambda module, *_: calls.update([module]))
        for module in {*once_per_video, *once_per_section, model.x_embedder, model.transformer_blocks[0]} | refiner
    ]
    try:
        list(golden_events(name, decode=False)[1])
    finally:
        for handle in handles:
            handle.remove()
    passes = 2 if "cfg" in name else 1
    sections, steps = VIDEOS[name]["sections"], VIDEOS[name]["steps"]
    assert {calls[module] for module in once_per_video} == {passes}
    assert {calls[module] for module in once_per_section} == {3 * sections}  # at 1x, 2x and 4x
    assert calls[model.x_embedder] == calls[model.transformer_blocks[0]] == passes * sections * steps


CASES = {
    "one sample": {},
    "odd sizes": {"height": 7, "width": 5},
    "two samples, one text length": {"batch": 2, "text": (7, 7)},
    "two samples, two text lengths": {"batch": 2, "text": (9, 4)},
}


@pytest.mark.parametrize("has_image_proj", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_every_step_gives_what_a_plain_call_gives(case, has_image_proj):
    model = build(has_image_proj=has_image_proj)
    inputs = random_inputs(model, **CASES[case])
    batch = len(inputs["hidden_states"])
    timesteps = torch.tensor([1000.0, 731.0, 12.5]).unsqueeze(1).repeat(1, batch)
    with torch.inference_mode():
        conditioning, history = condition(model, inputs, timesteps), pack(model, inputs)
        assert conditioning.steps == 3
        for step, timestep in enumerate(timesteps):
            out = model.denoise(inputs["hidden_states"], step, conditioning, history, model.execution)
            torch.testing.assert_close(out, run(model, inputs | {"timestep": timestep}), atol=1e-5, rtol=0)


def test_modulation_weights_are_not_read_while_sampling():
    model = build()
    inputs = random_inputs(model)
    with torch.inference_mode():
        conditioning, history = condition(model, inputs, inputs["timestep"].unsqueeze(0)), pack(model, inputs)
        before = model.denoise(inputs["hidden_states"], 0, conditioning, history, model.execution)
        spoiled = [module for module in model.modules() if isinstance(module, Modulation)]
        for module in (*spoiled, model.time_text_embed, model.context_embedder, model.image_projection):
            for parameter in module.parameters():
                parameter.fill_(float("nan"))
        assert torch.equal(model.denoise(inputs["hidden_states"], 0, conditioning, history, model.execution), before)


def test_a_step_reads_nothing_back_from_the_device():
    model = build()
    inputs = random_inputs(model)
    with torch.inference_mode():
        conditioning, history = condition(model, inputs, inputs["timestep"].unsqueeze(0)), pack(model, inputs)
        with FakeTensorMode(allow_non_fake_inputs=True):  # where numbers are unknown
            out = model.denoise(inputs["hidden_states"], 0, conditioning, history, model.execution)
            assert out.shape == inputs["hidden_states"].shape
            with pytest.raises(DataDependentOutputException):
                out.sum().item()


def test_a_prepared_model_is_the_wrapper_s_with_guidance():
    model = build()
    inputs, other = random_inputs(model), random_inputs(model, seed=1)
    fixed = {name: value for name, value in inputs.items() if name not in ("hidden_states", "timestep")}
    negative = fixed | {name: other[name] for name in CONDITIONS[:3]}
    guidance = {"dtype": torch.float32, "cfg_scale": 2.5, "cfg_rescale": 0.7}
    sigmas = torch.tensor([0.9, 0.4])
    with torch.inference_mode():
        timesteps = timesteps_of(sigmas, torch.float32).unsqueeze(1)
        given = Guidance(condition(model, fixed, timesteps), condition(model, negative, timesteps), 2.5, 0.7)
        prepared = prepared_model(model, lambda: pack(model, fixed | inputs), given, model.execution, torch.float32)
        plain = fm_wrapper(model)
        for sigma in sigmas.split(1):
            expected = plain(inputs["hidden_states"], sigma, positive=fixed, negative=negative, **guidance)
            torch.testing.assert_close(prepared(inputs["hidden_states"], sigma), expected, atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("text", [(9,), (9, 4)])
def test_fused_kernels_are_as_near_to_float32_as_plain_ones_on_the_gpu(text):
    model = build(attention_head_dim=64, rope_axes_dim=(8, 28, 28)).cuda()
    inputs = {k: v.cuda() for k, v in random_inputs(model, batch=len(text), height=20, width=22, text=text).items()}
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    wide = {k: v.float() if v.is_floating_point() else v for k, v in half.items()}
    exact = run(model.bfloat16().float(), wide)
    model.bfloat16()
    errors = []
    for fused in (False, True):
        model.execution.kernels = resolve_kernels("cuda", torch.bfloat16, fused=fused)
        errors.append((run(model, half) - exact).norm() / exact.norm())
    assert model.execution.kernels is not PLAIN
    assert errors[1] < 1.2 * errors[0] < 0.05
