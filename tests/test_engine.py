import copy
import inspect
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import replace

import pytest
import torch

from diffusers_helper.core.errors import CancelledError, NumericsError
from diffusers_helper.core.events import SectionDone, SectionSampled, StageStarted, StepDone
from diffusers_helper.core.plan import START
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.framepack.decoding import VaeSectionDecoder
from diffusers_helper.framepack.engine import (
    Conditions,
    EarlierRun,
    Sampler,
    VideoInputs,
    one_sampler,
    sample_sections,
    sample_video,
)
from diffusers_helper.framepack.history import LatentHistory
from diffusers_helper.framepack.postprocess import Postprocess
from diffusers_helper.k_diffusion.wrapper import fm_wrapper
from diffusers_helper.media.frames import soft_append_bcthw
from diffusers_helper.models.kernels import PLAIN
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
    settings |= changes
    if not settings.keys() - inspect.signature(sample_video).parameters:
        return plan, sample_video(plan, **settings)
    return plan, sections_of(plan, **settings)


def sections_of(
    plan, *, use=nullcontext, overlap=False, serialize_decode=False, wrap=None, sampled=(), decode_from=0, **s
):
    """`sample_video` with what only the product asks for."""
    transformer, device = s["transformer"], torch.device(s["device"])
    return sample_sections(
        plan,
        VideoInputs({START: s["start_latent"]}, {0: s["conditions"]}, s["seed"]),
        one_sampler(Sampler(transformer, device, s["dtype"], transformer.execution, use)),
        SamplingSettings(
            s["steps"], s["guidance_scale"], s["cfg_scale"], s["cfg_rescale"], "teacache" if s["teacache"] else "none"
        ),
        Postprocess(
            VaeSectionDecoder(s["vae"], PLAIN, use), wrap or (lambda events, _check: events), overlap, serialize_decode
        ),
        EarlierRun(sampled, decode_from),
    )


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
    history = LatentHistory(plan_video("original", 1, 3), {START: load_golden("video_i2v_1")["start_latent"]})
    read = history.context(section)
    conditions = golden_conditions("i2v_1")
    arguments = transformer_arguments(
        (conditions.prompt_embeds, conditions.prompt_mask, conditions.pooled),
        guidance_scale=10.0,
        batch=1,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        image_embeddings=conditions.image_embeddings,
        **{
            name: value
            for factor, suffix in ((1, ""), (2, "_2x"), (4, "_4x"))
            for name, value in zip(
                (f"clean_latents{suffix}", f"clean_latent{suffix}_indices"), read[factor], strict=True
            )
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
        stage, *done, sampled, section = seen[index * (steps + 3) : (index + 1) * (steps + 3)]
        assert isinstance(stage, StageStarted)
        assert [(e.section, e.sections, e.step, e.steps) for e in done] == [
            (index, len(plan.sections), step, steps) for step in range(1, steps + 1)
        ]
        assert isinstance(sampled, SectionSampled)
        assert isinstance(section, SectionDone)
        assert section.pixels is None
        assert section.latents is sampled.latents
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


def ends(events):
    """The events of the sections' ends, with the numbers they carry."""
    kept = [event for event in events if isinstance(event, SectionSampled | SectionDone)]
    return [
        (type(event).__name__, event.index, [value for value in vars(event).values() if torch.is_tensor(value)])
        for event in kept
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["i2v_5", "f1_3"])
def test_ends_beside_the_sampling_give_the_same_bits_in_the_same_order(name):
    serial, beside = (ends(golden_events(name, overlap=overlap)[1]) for overlap in (False, True))
    assert [end[:2] for end in beside] == [end[:2] for end in serial]
    assert len(serial) == 2 * VIDEOS[name]["sections"]
    for (kind, index, got), (_, _, want) in zip(beside, serial, strict=True):
        assert len(got) == 2
        assert all(map(torch.equal, got, want)), f"{kind} {index}"


@pytest.mark.slow
def test_the_next_section_is_sampled_while_one_ends_and_at_most_one(monkeypatch):
    """The end of every section but the last begins to decode only when the history has the next one."""
    steps, grown, threads, grow = VIDEOS["f1_3"]["steps"], threading.Semaphore(0), [], LatentHistory.grow

    def tell(history, section, latents):
        grow(history, section, latents)
        if threading.current_thread() is threading.main_thread() and section.index > 0:
            grown.release()

    def wrap(events, check):
        for event in events:
            if isinstance(event, SectionSampled):
                threads.append(threading.current_thread().name)
                assert event.index == 2 or grown.acquire(timeout=60)
            yield event

    monkeypatch.setattr(LatentHistory, "grow", tell)
    order, pixels = [], []
    for event in golden_events("f1_3", overlap=True, wrap=wrap)[1]:
        if isinstance(event, StepDone) and event.step == steps:
            order.append(f"sampled {event.section}")
        if isinstance(event, SectionDone):
            order.append(f"end of {event.index}")
            pixels.append(event.pixels)
    assert order == ["sampled 0", "sampled 1", "end of 0", "sampled 2", "end of 1", "end of 2"]
    assert threads == ["section-end"] * 3
    serial = [event.pixels for event in golden_events("f1_3")[1] if isinstance(event, SectionDone)]
    assert all(map(torch.equal, pixels, serial))


@pytest.mark.slow
def test_decoded_in_turn_a_section_is_only_saved_beside_the_next_ones_sampling():
    steps, sampled, order, pixels = VIDEOS["f1_3"]["steps"], threading.Semaphore(0), [], []

    def wrap(events, check):
        for event in events:
            yield event
            if isinstance(event, SectionDone):
                assert event.index == 2 or sampled.acquire(timeout=60)
                order.append(f"saved {event.index}")

    for event in golden_events("f1_3", overlap=True, serialize_decode=True, wrap=wrap)[1]:
        if isinstance(event, StageStarted):
            order.append(event.stage)
        if isinstance(event, StepDone) and event.step == steps:
            order.append(f"sampled {event.section}")
            if event.section > 0:
                sampled.release()
        if isinstance(event, SectionDone):
            order.append(f"decoded {event.index}")
            pixels.append(event.pixels)
    assert order[:-2] == [
        "sample", "sampled 0", "decode", "decoded 0",
        "sample", "sampled 1", "saved 0", "decode", "decoded 1",
        "sample", "sampled 2", "saved 1", "decode",
    ]  # fmt: skip
    assert sorted(order[-2:]) == ["decoded 2", "saved 2"]  # nothing waits between these
    serial = [event.pixels for event in golden_events("f1_3")[1] if isinstance(event, SectionDone)]
    assert all(map(torch.equal, pixels, serial))
    assert not end_threads()


@pytest.mark.slow
def test_the_thread_decodes_without_gradients():
    modes, vae = [], golden_vae()
    hook = vae.post_quant_conv.register_forward_pre_hook(
        lambda *_: modes.append((torch.is_inference_mode_enabled(), threading.current_thread().name))
    )
    try:
        list(golden_events("f1_3", overlap=True)[1])
    finally:
        hook.remove()
    assert set(modes) == {(True, "section-end")}


@pytest.mark.slow
def test_stages_are_told_only_while_they_are_waited_for():
    stages = [event.stage for event in golden_events("f1_3", overlap=True)[1] if isinstance(event, StageStarted)]
    assert stages == ["sample", "sample", "sample", "decode"]


def never_ending(log):
    """What stays in a section's end until it is told to stop."""

    def wrap(events, check):
        try:
            yield from events
            while True:
                check()
                time.sleep(0.005)
        finally:
            log.append("stopped")

    return wrap


def end_threads():
    return [thread for thread in threading.enumerate() if thread.name == "section-end"]


def test_closing_stops_the_end_beside_and_waits_for_it():
    log = []
    _, events = golden_events("f1_3", overlap=True, wrap=never_ending(log))
    while not (isinstance(event := next(events), StepDone) and event.section == 1):
        pass
    assert end_threads()
    events.close()
    assert (log, end_threads()) == (["stopped"], [])


def test_closing_stops_a_decode_at_its_next_layer():
    layers, first, checks, vae = [], threading.Event(), [], golden_vae()
    _, events = golden_events("f1_3", overlap=True, wrap=lambda events, check: checks.append(check) or events)

    def slow(*_):  # a layer that lasts until the end is told to stop
        layers.append(1)
        first.set()
        with suppress(CancelledError):
            while True:
                checks[0]()
                time.sleep(0.005)

    hook = vae.decoder.up_blocks[0].resnets[0].dropout.register_forward_hook(slow)
    hooks = [hook, *(block.register_forward_hook(slow) for block in vae.decoder.modules() if "Dropout" in str(block))]
    try:
        while not (isinstance(event := next(events), StepDone) and event.section == 1):
            pass
        assert first.wait(60)
        events.close()
        seen = len(layers)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen <= 3
    assert not end_threads()


def test_an_error_in_the_sampling_stops_the_end_beside():
    log, calls = [], []
    steps = VIDEOS["f1_3"]["steps"]

    def fail(*_):
        calls.append(1)
        if len(calls) > steps + 1:
            raise RuntimeError("no luck")

    hook = golden_transformer().transformer_blocks[0].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="no luck"):
            list(golden_events("f1_3", overlap=True, wrap=never_ending(log))[1])
    finally:
        hook.remove()
    assert (log, end_threads()) == (["stopped"], [])


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("no room"), CancelledError("stopped"), SystemExit(3)])
def test_an_error_in_the_end_ends_the_video(error):
    def wrap(events, check):
        for event in events:
            yield event
            if isinstance(event, SectionDone) and event.index == 1:
                raise error

    seen = []
    events = golden_events("f1_3", overlap=True, wrap=wrap)[1]
    with pytest.raises(type(error)) as raised:
        seen.extend(event for event in events)
    assert raised.value is error
    assert not end_threads()
    assert [event.index for event in seen if isinstance(event, SectionDone)] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "done", "overlap"),
    [("i2v_6_teacache", 1, False), ("i2v_5", 4, False), ("i2v_2_cfg", 1, False), ("f1_3", 2, False), ("f1_3", 1, True)],
)
def test_sections_of_an_earlier_run_are_not_sampled_again_and_the_others_come_out_the_same(name, done, overlap):
    whole = ends(golden_events(name, overlap=overlap)[1])
    sampled = [SectionSampled(index, *tensors) for kind, index, tensors in whole[: 2 * done : 2]]
    again = list(golden_events(name, overlap=overlap, sampled=sampled, decode_from=done - 1)[1])
    assert {event.section for event in again if isinstance(event, StepDone)} == set(
        range(done, VIDEOS[name]["sections"])
    )
    assert [end[:2] for end in ends(again)] == [end[:2] for end in whole[2 * (done - 1) :]]
    for (kind, index, got), (_, _, want) in zip(ends(again), whole[2 * (done - 1) :], strict=True):
        assert all(map(torch.equal, got, want)), f"{kind} {index}"


@pytest.mark.slow
def test_where_all_is_sampled_nothing_is_left_to_do():
    whole = ends(golden_events("f1_3")[1])
    sampled = [SectionSampled(index, *tensors) for kind, index, tensors in whole[::2]]
    assert not list(golden_events("f1_3", sampled=sampled, decode_from=3)[1])


@pytest.mark.parametrize(("prompts", "calls"), [([0, 1, 0, 1, 0, 1], 2), ([0, 1, 2, 3, 4, 0], 6)])
def test_what_the_model_makes_of_conditions_is_kept_for_the_newest_few(prompts, calls):
    """Each is 100 MB on the device at full size, and a video may have a hundred."""
    name, transformer, made, begun = "f1_1", golden_transformer(), [], []
    hook = transformer.context_embedder.register_forward_hook(lambda *_: made.append(1))
    plan = plan_video("f1", len(prompts), VIDEOS[name]["win"])
    sections = tuple(replace(s, prompt=prompt) for s, prompt in zip(plan.sections, prompts, strict=True))
    given = {START: load_golden(f"video_{name}")["start_latent"]}
    sampler = Sampler(
        transformer, torch.device("cpu"), torch.float32, begin=lambda section: begun.append(section.prompt)
    )
    outs = []
    for planned in (plan, replace(plan, sections=sections)):
        inputs = VideoInputs(given, dict.fromkeys(range(5), golden_conditions(name)), 0)
        events = sample_sections(planned, inputs, one_sampler(sampler), SamplingSettings(1), Postprocess(None))
        outs.append([event.latents for event in events if isinstance(event, SectionSampled)])
    hook.remove()
    assert len(made) == 1 + calls
    assert begun == [0] * 6 + prompts
    assert all(map(torch.equal, *outs))
