import copy

import pytest
import torch

from diffusers_helper.framepack.engine import Conditions, sample_video
from diffusers_helper.framepack.errors import NumericsError
from diffusers_helper.framepack.events import SectionDone, StageStarted, StepDone
from diffusers_helper.framepack.history import LatentHistory
from diffusers_helper.framepack.planning import plan_video
from diffusers_helper.k_diffusion.wrapper import fm_wrapper
from diffusers_helper.media.frames import soft_append_bcthw
from diffusers_helper.pipelines.k_diffusion_hunyuan import transformer_arguments
from tests.golden import golden_meta, load_golden
from tests.models import golden_conditions, golden_transformer, golden_vae

VIDEOS = golden_meta()["video"]


def golden_events(name, **changes):
    entry = VIDEOS[name]
    plan = plan_video({"i2v": "original", "f1": "f1"}[entry["mode"]], entry["sections"], entry["win"])
    settings = {
        "transformer": golden_transformer(),
        "vae": golden_vae(),
        "start_latent": load_golden(f"video_{name}")["start_latent"],
        "conditions": golden_conditions(name),
        "seed": entry["seed"],
        "steps": entry["steps"],
        "guidance_scale": entry["distilled_guidance_scale"],
        "cfg_scale": entry.get("cfg_scale", 1.0),
        "cfg_rescale": entry.get("rs", 0.0),
        "teacache": entry["teacache"],
        "device": "cpu",
        "dtype": torch.float32,
    }
    return plan, sample_video(plan, **(settings | changes))


@pytest.mark.parametrize("name", VIDEOS)
def test_golden_videos(name):
    golden, entry = load_golden(f"video_{name}"), VIDEOS[name]
    calls = []
    hook = golden_transformer().transformer_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    plan, events = golden_events(name)
    pixels, passes = None, []
    try:
        for event in events:
            if not isinstance(event, SectionDone):
                continue
            expected = golden[f"section_{event.index}.latents"]
            assert event.latents.dtype == torch.float32
            assert (event.latents - expected).abs().max() <= 1e-4 * expected.std(), f"section {event.index}"
            passes.append(len(calls))
            calls.clear()
            overlap = plan.sections[event.index].overlap_pixels
            if pixels is None:
                pixels = event.pixels
            elif plan.grows_at_front:
                pixels = soft_append_bcthw(event.pixels, pixels, overlap)
            else:
                pixels = soft_append_bcthw(pixels, event.pixels, overlap)
    finally:
        hook.remove()
    assert passes == entry["transformer_passes_per_section"]
    assert list(pixels.shape) == entry["pixel_shape"]
    expected = golden["pixels"].float()
    assert ((pixels - expected).abs() <= 2e-3 + 1e-3 * expected.abs()).all()


@pytest.mark.parametrize(("key", "limit"), [("x0", 1e-2), ("section_latents", 5e-2)])
def test_golden_bfloat16(key, limit):
    golden = load_golden("bf16")
    if key == "x0":
        result = _one_call_in_bfloat16(golden)
    else:
        _, events = golden_events(
            "i2v_1", transformer=golden_transformer(torch.bfloat16), dtype=torch.bfloat16, decode=False
        )
        result = next(event for event in events if isinstance(event, SectionDone)).latents
    assert torch.linalg.vector_norm(result - golden[key]) <= limit * torch.linalg.vector_norm(golden[key])


def _one_call_in_bfloat16(golden):
    """At the golden call's noise level, which is the first of a schedule of one step."""
    section = plan_video("original", 1, 3).sections[0]
    clean = LatentHistory(plan_video("original", 1, 3), load_golden("video_i2v_1")["start_latent"]).clean(section)
    conditions = golden_conditions("i2v_1")
    arguments = transformer_arguments(
        conditions.prompt_embeds,
        conditions.prompt_mask,
        conditions.pooled,
        guidance_scale=10.0,
        batch=1,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        image_embeddings=conditions.image_embeddings,
        clean_latents=clean.full,
        clean_latents_2x=clean.half,
        clean_latents_4x=clean.quarter,
        **{
            name: torch.tensor([getattr(section, name.replace("_latent_", "_"))])
            for name in ("clean_latent_indices", "clean_latent_2x_indices", "clean_latent_4x_indices")
        },
        latent_indices=torch.tensor([section.latent_indices]),
    )
    model = fm_wrapper(golden_transformer(torch.bfloat16))
    with torch.inference_mode():
        return model(golden["x"], golden["sigma"], dtype=torch.bfloat16, positive=arguments)


@pytest.mark.parametrize("name", ["i2v_2_cfg", "f1_3"])
def test_every_step_is_an_event_in_order(name):
    plan, events = golden_events(name, decode=False)
    steps = VIDEOS[name]["steps"]
    seen = list(events)
    for index in range(len(plan.sections)):
        stage, *done, section = seen[index * (steps + 2) : (index + 1) * (steps + 2)]
        assert isinstance(stage, StageStarted)
        assert [(e.section, e.sections, e.step, e.steps) for e in done] == [
            (index, len(plan.sections), step, steps) for step in range(1, steps + 1)
        ]
        assert isinstance(section, SectionDone)
        assert section.pixels is None
        torch.testing.assert_close(section.latents, done[-1].denoised, rtol=0, atol=0)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    def latents(seed):
        _, events = golden_events("f1_1", seed=seed, decode=False)
        return next(event.latents for event in events if isinstance(event, SectionDone))

    assert torch.equal(latents(5), latents(5))
    assert not torch.equal(latents(5), latents(6))


def test_teacache_leaves_nothing_for_the_next_video():
    def latents(name):
        _, events = golden_events(name, decode=False)
        return torch.cat([event.latents for event in events if isinstance(event, SectionDone)])

    fresh = latents("f1_4_teacache")
    exact = latents("f1_1")
    assert torch.equal(latents("f1_4_teacache"), fresh)
    assert torch.equal(latents("f1_1"), exact)


def test_closing_leaves_the_models_contexts():
    log = []

    class Use:
        def __init__(self, module):
            log.append("in")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            log.append("out")

    _, events = golden_events("f1_3", use=Use)
    while not isinstance(next(events), StepDone):
        pass
    assert log == ["in"]
    events.close()
    assert log == ["in", "out"]
    assert list(events) == []


def test_inference_mode_does_not_leak_into_the_consumer():
    _, events = golden_events("f1_1")
    for _event in events:
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("where", ["latents", "pixels"])
def test_numbers_that_are_not_finite_stop_the_video(where):
    conditions = golden_conditions("f1_1")
    broken = Conditions(conditions.prompt_embeds * float("nan"), conditions.prompt_mask, conditions.pooled,
                        image_embeddings=conditions.image_embeddings)  # fmt: skip

    black = copy.deepcopy(golden_vae())
    black.decoder.conv_out.conv.bias.data.fill_(float("inf"))
    change = {"conditions": broken} if where == "latents" else {"vae": black}
    _, events = golden_events("f1_1", **change)
    with pytest.raises(NumericsError, match=rf"The {where} of section 1 of 1 .*not finite"):
        list(events)


def test_guidance_needs_the_negative_prompt():
    _, events = golden_events("f1_1", cfg_scale=2.0)
    with pytest.raises(ValueError, match="negative prompt"):
        list(events)


def test_a_batch_of_two_gives_what_each_gives_alone():
    start = load_golden("video_f1_1")["start_latent"]
    conditions = golden_conditions("f1_1")
    both = Conditions(*(torch.cat([value, value]) for value in (conditions.prompt_embeds, conditions.prompt_mask,
                      conditions.pooled)), image_embeddings=conditions.image_embeddings)  # fmt: skip
    _, events = golden_events("f1_1", start_latent=start.repeat(2, 1, 1, 1, 1), conditions=both, decode=False)
    latents = next(event for event in events if isinstance(event, SectionDone)).latents
    # One generator draws both samples' noise at once; its first half is what a single sample draws.
    torch.testing.assert_close(
        latents[:1], load_golden("video_f1_1")["section_0.latents"], rtol=0, atol=1e-4 * float(latents.std())
    )
