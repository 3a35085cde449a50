"""What blocks multiply: the 8-bit numbers that a draft asks for, as far as a card can, and what is told of the rest."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from diffusers_helper.app.video_times import VideoTimes
from diffusers_helper.core.events import Note, SectionSampled
from diffusers_helper.core.quality import RUNGS
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.generation.generate import generate
from diffusers_helper.generation.models import ModelLoader
from diffusers_helper.generation.sampling import computed_in, environment_of, work_of
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.environment import differences
from diffusers_helper.loading.precision import Precision, Precisions, TensorCores
from diffusers_helper.loading.step_ratios import StepRatios
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from diffusers_helper.media.recipe import read_recipe, recipe_of
from diffusers_helper.media.tags import COMMENT, read_tag
from diffusers_helper.model_files import LocalFolder, resolve_models
from diffusers_helper.models.attention import BACKENDS
from diffusers_helper.models.eight_bit import ATTENTION, attention_for, misfit
from diffusers_helper.models.step_caches.magcache import PUBLISHED
from tests.tiny import TINY_FOLDER

CPU, CARD = torch.device("cpu"), torch.device("cuda")
FA3, INT8 = ATTENTION
DRAFT = sampling_settings(GenerationRequest(quality="draft"))
EXACT = sampling_settings(GenerationRequest())
TINY = LocalFolder(TINY_FOLDER)


class Cores:
    """A card that multiplies the numbers named; `faulty` ones fail their small calls."""

    def __init__(self, *names, faulty=()):
        self.names, self.faulty, self.calls = names, faulty, []

    def attention(self, _head_dim):
        return next((name for name in self.names if name in ATTENTION), FA3)

    def misfit(self, name, _head_dim):
        return None if name in self.names else "it is too old"

    def fault(self, name, _head_dim):
        self.calls.append(name)
        return "its result is off" if name in self.faulty else None


def comment_of(path):
    with path.open("rb") as file:
        return read_tag(file, COMMENT, 100_000).decode()


def card(*names, faulty=()):
    return Precisions(TINY, Cores(*names, faulty=faulty))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("fp8", "int8", FA3), Precision("fp8", FA3)),
        (("int8", INT8), Precision("int8", INT8)),
        (("fp8", "int8"), Precision("fp8", None, None, "it is too old")),
        (("int8",), Precision("int8", None, None, "it is too old")),
        ((FA3,), Precision(None, FA3, "it is too old")),
        ((), Precision(None, None, "it is too old", "it is too old")),
    ],
)
def test_a_card_computes_a_draft_in_what_it_has(names, expected):
    cores = Cores(*names)
    precisions = Precisions(TINY, cores)
    assert precisions.expected(DRAFT, "f1") == expected
    assert precisions.expected(EXACT, "f1") == precisions.proven(EXACT, "f1") == Precision()
    assert cores.calls == [], "nothing is run for what is expected, and for what is exact"
    assert precisions.proven(DRAFT, "f1") == expected


def test_what_fails_its_small_calls_is_done_without_and_not_tried_again():
    cores = Cores("fp8", "int8", INT8, faulty=("fp8", INT8))
    precisions = Precisions(TINY, cores)
    found = precisions.proven(DRAFT, "f1")
    assert found == Precision("int8", None, None, "its result is off")
    assert sorted(cores.calls) == sorted(["fp8", INT8, "int8"])
    assert precisions.proven(DRAFT, "f1") == precisions.expected(DRAFT, "f1") == found
    assert len(cores.calls) == 3


@pytest.mark.parametrize(
    ("capability", "dtype", "linears"),
    [
        ((9, 0), torch.bfloat16, "fp8"),
        ((8, 9), torch.bfloat16, "fp8"),
        ((8, 6), torch.bfloat16, "int8"),
        ((8, 0), torch.bfloat16, "int8"),
        ((7, 5), torch.float16, None),
        ((8, 9), torch.float16, None),
    ],
)
def test_cards_are_told_apart_by_what_their_tensor_cores_multiply(monkeypatch, capability, dtype, linears):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device=None: capability)
    fits = [name for name in RUNGS["draft"].linears if misfit(name, CARD, dtype) is None]
    assert next(iter(fits), None) == linears


def test_a_processor_computes_a_draft_exactly_and_says_so():
    precision = Precisions(TINY, TensorCores(CPU, ComputeOptions())).proven(DRAFT, "f1")
    assert (precision.linears, precision.attention, precision.cost, precision.environment) == (None, None, 1, {})
    assert precision.note == "Nothing of this draft is computed in 8 bits here: it takes an NVIDIA card."
    assert Precision().note == Precision("fp8", FA3).note == ""


def test_what_half_of_a_draft_lacks_is_told_of_that_half():
    linears, attention = Precision(None, FA3, "it is too old").note, Precision("int8", None, None, "it is sdpa").note
    assert linears == "The linear layers of this draft are computed exactly, not in 8 bits: it is too old."
    assert attention == "The attention of this draft is that of other videos, not in 8 bits: it is sdpa."


def test_8_bit_attention_needs_its_package_and_gives_way_to_the_option(monkeypatch):
    fits = replace(BACKENDS[FA3], module="not_here", devices=None, dtypes=None, head_dims=None)
    monkeypatch.setitem(BACKENDS, FA3, fits)
    assert TensorCores(CPU, ComputeOptions()).misfit(FA3, 128) == "not_here is not installed"
    chosen = TensorCores(CPU, ComputeOptions(attention="sdpa")).misfit(FA3, 128)
    assert chosen == "it is sdpa, as --attention says"
    same = TensorCores(CPU, ComputeOptions(attention=FA3)).misfit(FA3, 128)
    assert same == "not_here is not installed", "the option asks for it, too"


def test_without_fused_kernels_8_bits_gain_nothing(monkeypatch):
    cores = TensorCores(CPU, ComputeOptions(fused=False))
    assert cores.fault("fp8", 128) == "it takes the fused kernels"
    for name in ATTENTION:
        fits = replace(BACKENDS[name], module=None, devices=None, dtypes=None, head_dims=None)
        monkeypatch.setitem(BACKENDS, name, fits)
        assert cores.misfit(name, 128) == "it takes the fused kernels"


@pytest.mark.parametrize(
    ("card", "capability", "name", "against"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), FA3, None),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", (8, 9), INT8, None),
        ("NVIDIA GeForce RTX 3090 Ti", (8, 6), INT8, None),
        ("NVIDIA RTX A6000", (8, 6), FA3, "it takes compute capability 9.0, not 8.6"),
        ("NVIDIA L20", (8, 9), FA3, "it takes compute capability 9.0, not 8.9"),
        ("NVIDIA A100-SXM4-80GB", (8, 0), FA3, "it takes compute capability 9.0, not 8.0"),
        ("NVIDIA GeForce RTX 5090", (12, 0), FA3, "it takes compute capability 9.0, not 12.0"),
    ],
)
def test_a_card_has_one_8_bit_attention_or_none(monkeypatch, card, capability, name, against):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device=None: card)
    assert attention_for(CARD, torch.bfloat16, 128) == name
    for backend in ATTENTION:
        monkeypatch.setitem(BACKENDS, backend, replace(BACKENDS[backend], module=None))
    cores = TensorCores(CARD, ComputeOptions())
    assert cores.attention(128) == name
    assert cores.misfit(name, 128) == against


# what follows from it


def components_with(precisions):
    components = Components(TINY, CPU)
    components.precisions = precisions
    return components


def loaded(components, settings, *, twice=False):
    """A sampler, and the notes told while it was loaded, or again after another one."""
    loader = ModelLoader(components, settings, work_of(settings, 64, 64), lambda: None)
    notes = []

    def told(variant):
        sampler = yield from loader.sampler(variant)
        samplers.append(sampler)

    samplers = []
    for variant in ("f1", "original", "f1") if twice else ("f1",):
        notes += [event.text for event in told(variant) if isinstance(event, Note)]
    return samplers[-1], notes


def test_the_sampler_of_a_draft_multiplies_what_was_chosen():
    sampler, notes = loaded(components_with(card("fp8", FA3)), DRAFT)
    assert sampler.execution.eight_bit_linears.kernels.form.name == "fp8"
    assert sampler.execution.eight_bit_attention is not None
    assert notes == []
    sampler, notes = loaded(components_with(card("int8")), DRAFT, twice=True)
    assert sampler.execution.eight_bit_linears.kernels.form.name == "int8"
    assert sampler.execution.eight_bit_attention is None
    assert len(notes) == 1
    assert notes[0].startswith("The attention of this draft is that of other videos")


def test_exact_is_exact_on_every_card():
    sampler, notes = loaded(components_with(card("fp8", FA3)), EXACT)
    execution = sampler.execution
    assert (execution.eight_bit_linears, execution.eight_bit_attention, notes) == (None, None, [])


@pytest.mark.parametrize(("numbers", "extrapolates"), [((), True), (("fp8",), False), ((INT8,), False)])
def test_a_draft_extrapolates_what_is_exact_alone(numbers, extrapolates):
    components = components_with(card(*numbers))
    components.step_ratios = SimpleNamespace(needed=lambda _settings, variant: PUBLISHED[variant])
    sampler, _ = loaded(components, DRAFT)
    assert sampler.new_step_cache(DRAFT).extrapolate is extrapolates


def test_what_was_computed_is_part_of_the_environment_and_of_the_recipe(tmp_path):
    able, unable = components_with(card("fp8", FA3)), components_with(card())
    draft, exact = GenerationRequest(steps=4, quality="draft"), GenerationRequest(steps=4)
    before, now = environment_of(able, draft, ["f1"]), environment_of(unable, draft, ["f1"])
    assert (before["linear layers"], before["attention bits"]) == ("fp8", "8")
    assert "with linear layers fp8; here it is exact" in differences(before, now)
    assert "with linear layers exact; here it is fp8" in differences(now, before)
    assert environment_of(able, exact, ["f1"]) == environment_of(unable, exact, ["f1"])
    computed = computed_in(able, draft)
    assert computed == {"linear layers": "fp8", "attention bits": "8"}
    text = recipe_of(draft, computed=computed)
    assert json.loads(text)["framepack_computed"] == computed
    assert computed_in(components_with(card(INT8)), draft) == {"attention bits": "8 (int8)"}
    assert recipe_of(draft, computed=computed_in(unable, draft)) == recipe_of(draft)
    (tmp_path / "a.json").write_text(text)
    recipe = read_recipe(tmp_path / "a.json")
    assert (GenerationRequest(**recipe.settings), recipe.notes) == (draft, ())


def test_estimates_know_what_8_bits_save(tmp_path):
    source = resolve_models("tiny", accelerator=False)
    draft, exact = GenerationRequest(quality="draft"), GenerationRequest()
    keys = []
    for precisions in card(), card("fp8"), card("fp8", FA3), card("int8", INT8):
        times = VideoTimes(tmp_path / "speeds.json", StepRatios(source), CPU, ComputeOptions(), precisions)
        keys.append(times.key(draft, (1, 1)))
        assert times.key(exact, (1, 1)).share == 1
    shares = [key.share for key in keys]
    assert shares == pytest.approx([shares[0], 0.81 * shares[0], 0.70 * shares[0], 0.49 * shares[0]])


@pytest.mark.slow
def test_a_draft_without_8_bits_has_the_bits_of_exact_layers_and_says_so(tmp_path):
    photo = Photo(Image.new("RGB", (64, 64), "teal"), "photo", ())
    found = {}
    for name, precisions, quality in (
        ("exact", card("fp8"), "exact"),
        ("without", card(), "draft"),
        ("fp8", card("fp8"), "draft"),
    ):
        request = GenerationRequest(
            prompt="a lion", seconds=1.2, steps=2, seed=5, width=64, height=64, quality=quality, step_cache="none"
        )
        inputs = JobInputs(request, {"start": photo})
        events = list(generate(inputs, components=components_with(precisions), output=tmp_path / name))
        latents = next(event.latents for event in events if isinstance(event, SectionSampled))
        notes = [event.text for event in events if isinstance(event, Note) and "8 bits" in event.text]
        found[name] = latents, len(notes), comment_of(tmp_path / f"{name}.mp4")
    exact = found["exact"][0]
    assert torch.equal(found["without"][0], exact)
    assert 0 < (found["fp8"][0] - exact).norm() / exact.norm() < 0.2
    assert [told for _, told, _ in found.values()] == [0, 1, 1]
    assert ["framepack_computed" in recipe for _, _, recipe in found.values()] == [False, False, True]
