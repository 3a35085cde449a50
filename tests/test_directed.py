"""Directed videos against vectors of the original implementation: plans as data, and sampled latents."""

import json
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from diffusers_helper.core.events import SectionDone
from diffusers_helper.core.plan import END, LINE
from diffusers_helper.core.planning import plan_score
from diffusers_helper.core.prompts import blended
from diffusers_helper.core.score import Score, Stretch
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.framepack.conditions import Conditions, blend
from diffusers_helper.framepack.decoding import VaeSectionDecoder
from diffusers_helper.framepack.engine import Sampler, VideoInputs, one_sampler, sample_sections
from diffusers_helper.framepack.postprocess import Postprocess
from diffusers_helper.media.frames import soft_append_bcthw
from diffusers_helper.models.kernels import PLAIN
from tests.golden import load_golden
from tests.models import golden_transformer, golden_vae

CASES = json.loads(Path("tests/data/directed.json").read_text())["cases"]
STRETCHES = {
    "before_given": {"tail": ("given", 20)},
    "connect": {"given": "first", "latents": 6, "clip": True, "tail": ("second", 20)},
    "loop": {"given": "clip", "latents": 22, "clip": True, "tail": ("clip", 19)},
    "f1_given_27": {"given": "given", "latents": 27, "clip": True},
    "f1_given_27_anchor_first": {"given": "given", "latents": 27, "clip": True, "anchor": "first"},
    "f1_given_5": {"given": "given", "latents": 5, "clip": True},
}


def plan_of(name):
    case, about = CASES[name], STRETCHES.get(name, {})
    stretch = Stretch(case["sections"], **{key: about[key] for key in ("given", "latents", "clip") if key in about})
    score = Score(
        case["variant"],
        (stretch,),
        tail=about.get("tail"),
        end=name.startswith("end_"),
        anchor=about.get("anchor", "last"),
        window=case["win"],
    )
    plan, prompts = plan_score(score), case["prompts"]
    mixes = blended(prompts["by_output_section"], prompts.get("blend_sections", 0))
    numbers = list(dict.fromkeys(mixes))
    sections = tuple(replace(s, prompt=numbers.index(mixes[s.output_index])) for s in plan.sections)
    return replace(plan, sections=sections), numbers, mixes


def read(plan, section, piece, strength):
    """What the vectors' notes call each latent that a slice reads."""
    filled = {at: f"s{s.index}[{n}]" for s in plan.sections[: section.index] for n, at in enumerate(s.positions)}
    for given in plan.given:
        picture = given.name == "start"
        filled |= {given.at + n: given.name if picture else f"{given.name}[{n}]" for n in range(given.count)}
    if piece.source == LINE:
        names = [filled.get(position, "zero") for position in piece.slot]
    else:
        assert piece.source == END
        names = ["end" if strength == 1 else f"mix:end*{strength}" for _ in piece.slot]
    return [list(pair) for pair in zip(piece.indices, names, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_plans_as_data(name):
    plan, _, _ = plan_of(name)
    assert len(plan.sections) == len(CASES[name]["plan"])
    for section, expected in zip(plan.sections, CASES[name]["plan"], strict=True):
        assert section.index == expected["sampling_order"]
        assert section.output_index == expected["output_section"]
        assert [section.positions.start, section.positions.stop] == expected["output_latents"]
        assert list(section.latent_indices) == expected["latent_indices"]
        for factor in (1, 2, 4):
            pieces = [piece for piece in section.context if piece.factor == factor]
            found = [pair for piece in pieces for pair in read(plan, section, piece, CASES[name].get("strength"))]
            assert found == expected[f"clean_{factor}x"]


@pytest.mark.parametrize("name", [name for name in CASES if "effective" in CASES[name]["prompts"]])
def test_which_texts_each_section_follows(name):
    _, _, mixes = plan_of(name)
    for mix, expected in zip(mixes, CASES[name]["prompts"]["effective"], strict=True):
        assert mix.fraction == Fraction(expected["fraction"])
        assert mix.after == expected["to"]
        assert mix.before == (expected["from"] if mix.fraction else mix.after)


def conditions_of(name, golden, numbers):
    length = CASES[name]["text_pad_length"]

    def text(number):
        embeds = golden[f"prompt_{number}.embeds"]
        padded = torch.nn.functional.pad(embeds, (0, 0, 0, length - embeds.shape[1]))
        mask = torch.arange(length).unsqueeze(0) < embeds.shape[1]
        return Conditions(padded, mask, golden[f"prompt_{number}.pooler"], image_embeddings=golden["image_embeddings"])

    return {n: blend(text(mix.before), text(mix.after), float(mix.fraction)) for n, mix in enumerate(numbers)}


def events_of(name, *, decode=False):
    case, golden = CASES[name], load_golden(f"directed_{name}")
    plan, numbers, _ = plan_of(name)
    given = {key: golden[key] for key in ("start", "given", "first", "second", "clip") if key in golden}
    if "end" in golden:
        given[END] = golden["end"] * case["strength"]
    sampler = Sampler(golden_transformer(), torch.device("cpu"), torch.float32)
    decoder = VaeSectionDecoder(golden_vae(), PLAIN, lambda _: nullcontext()) if decode else None
    return (
        plan,
        golden,
        sample_sections(
            plan,
            VideoInputs(given, conditions_of(name, golden, numbers), case["seed"]),
            one_sampler(sampler),
            SamplingSettings(case["steps"], case["distilled_guidance_scale"]),
            Postprocess(decoder),
        ),
    )


@pytest.mark.parametrize("name", CASES)
def test_latents(name):
    _, golden, events = events_of(name)
    done = [event for event in events if isinstance(event, SectionDone)]
    assert len(done) == CASES[name]["sections"]
    for event in done:
        expected = golden[f"section_{event.index}.latents"]
        assert (event.latents - expected).abs().max() <= 1e-4 * expected.std(), f"section {event.index}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key"), [("end_1", "pixels"), ("end_3", "pixels"), ("f1_given_27", "pixels_new")])
def test_pixels(name, key):
    plan, golden, events = events_of(name, decode=True)
    pixels = None
    for event in events:
        if isinstance(event, SectionDone):
            section = plan.sections[event.index]
            new = event.pixels
            parts = (new, pixels) if plan.grows_at_front else (pixels, new)
            pixels = new if pixels is None else soft_append_bcthw(*parts, section.overlap_pixels)
    expected = golden[key].float()
    assert pixels.shape == expected.shape
    assert pixels.shape[2] == plan.total_frames
    assert ((pixels - expected).abs() <= 2e-3 + 1e-3 * expected.abs()).all()
