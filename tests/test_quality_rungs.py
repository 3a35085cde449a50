"""Rungs of quality: what a request leads to, and what a video's numbers then depend on."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from diffusers_helper.core.errors import ModelFilesError, NumericsError, OutputError, SettingsError
from diffusers_helper.core.quality import (
    RUNGS,
    STEP_CACHE_TITLES,
    EightBitForm,
    Quality,
    Rung,
    StepCacheName,
    step_cache_of,
)
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.generation.calibration import comparable
from diffusers_helper.generation.sampling import environment_of, require_step_cache, work_of
from diffusers_helper.gradio.create.quality import WORDS
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.environment import differences
from diffusers_helper.loading.step_ratios import PUBLISHED_SIZE, StepRatios
from diffusers_helper.model_files import LocalFolder, resolve_models
from diffusers_helper.model_files.settings_file import read_settings
from diffusers_helper.models.eight_bit import NEEDED, SAVED
from diffusers_helper.models.rows import FORMS
from diffusers_helper.models.step_caches import STEP_CACHES, cache_inputs, expected_share
from diffusers_helper.models.step_caches.calibration import Calibration
from diffusers_helper.models.step_caches.magcache import PUBLISHED
from tests.tiny import SHIPPED, TINY_FOLDER

MEASURED = Calibration(ratios=(1.0, 0.9, 0.99, 0.99), spread=(0.0,) * 4, turn=(0.0,) * 4)


def test_exact_is_the_default_and_skips_nothing():
    assert GenerationRequest().quality == "exact"
    assert RUNGS["exact"] == Rung()
    settings = sampling_settings(GenerationRequest())
    assert settings.step_cache == "none"
    assert all(rung.linears == () and rung.attention_bits == 16 for rung in (RUNGS["steady"], RUNGS["quick"]))
    assert (settings.linears, settings.attention_bits) == ((), 16)


def test_the_names_of_requests_are_those_of_the_registries():
    """A new step cache or rung is chosen everywhere once it has its line; the words of the page are its own."""
    assert {*get_args(StepCacheName)} == {*STEP_CACHES} == {"none", *STEP_CACHE_TITLES}
    assert {*get_args(Quality)} == {*RUNGS} == {*WORDS}
    assert {*get_args(EightBitForm)} == {*FORMS} == {*SAVED} == {*NEEDED}


def test_a_draft_asks_for_8_bits_whatever_its_step_cache():
    for fields in {}, {"step_cache": "none"}, {"teacache": True}:
        settings = sampling_settings(GenerationRequest(quality="draft", **fields))
        assert (settings.linears, settings.attention_bits) == (("fp8", "int8"), 8)


@pytest.mark.parametrize(
    ("fields", "name", "of_rung"),
    [
        ({}, "none", True),
        ({"quality": "quick"}, "magcache", True),
        ({"teacache": True}, "teacache", False),
        ({"teacache": True, "quality": "quick"}, "teacache", False),
        ({"step_cache": "none", "quality": "quick"}, "none", False),
        ({"step_cache": "easycache", "teacache": True}, "easycache", False),
        ({"step_cache": "magcache"}, "magcache", False),
        ({"step_cache": "magcache", "quality": "steady"}, "magcache", True),
        ({"step_cache": "", "quality": "steady"}, "magcache", True),
    ],
)
def test_a_switch_that_is_set_counts_before_the_rung(fields, name, of_rung):
    request = GenerationRequest.from_fields(fields)
    settings = sampling_settings(request)
    parameters = RUNGS[request.quality].parameters if of_rung else {}
    assert (settings.step_cache, dict(settings.cache_parameters)) == (name, dict(parameters))
    assert step_cache_of(request.quality, request.step_cache, teacache=request.teacache) == (name, parameters)


@pytest.mark.parametrize("field", ["quality", "step_cache"])
def test_another_word_is_refused(field):
    with pytest.raises(SettingsError, match=field):
        GenerationRequest.from_fields({field: "best"})


def test_names_of_earlier_videos_stay():
    assert not {"quality", "step_cache"} & GenerationRequest().identity().keys()
    assert GenerationRequest(quality="draft").identity()["quality"] == "draft"


@pytest.mark.parametrize("rung", RUNGS.values(), ids=list(RUNGS))
@pytest.mark.parametrize("variant", PUBLISHED)
def test_every_rung_makes_its_step_cache_with_fewer_steps_on_each(rung, variant):
    request = GenerationRequest(quality=next(name for name, one in RUNGS.items() if one is rung))
    settings = sampling_settings(request)
    inputs = cache_inputs(settings, PUBLISHED[variant])
    STEP_CACHES[settings.step_cache].make(inputs)
    shares = [expected_share(sampling_settings(GenerationRequest(quality=name)), PUBLISHED[variant]) for name in RUNGS]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == len(RUNGS)


@pytest.mark.parametrize(
    ("quality", "steps"), [("steady", {"original": 14, "f1": 13}), ("quick", {"original": 12, "f1": 12})]
)
def test_the_published_models_compute_as_many_of_25_steps_as_the_documentation_says(quality, steps):
    settings = sampling_settings(GenerationRequest(quality=quality))
    assert {name: round(25 * expected_share(settings, PUBLISHED[name])) for name in PUBLISHED} == steps


def test_an_unknown_model_skips_nothing_in_an_estimate():
    assert expected_share(sampling_settings(GenerationRequest(quality="quick")), None) == 1


def test_the_memory_plan_counts_what_a_step_cache_holds():
    plain = work_of(sampling_settings(GenerationRequest()), 640, 608)
    quick = work_of(sampling_settings(GenerationRequest(quality="quick")), 640, 608)
    assert plain.sampled == 9 * 40 * 38
    assert quick.nbytes(3072) - plain.nbytes(3072) == 2 * 2 * 3072 * 9 * 40 * 38  # 84 MB each: residual and change
    assert quick.cached_streams == 0


# what is known of a model's steps


def test_the_tiny_model_comes_with_its_ratios():
    ratios = StepRatios(resolve_models("tiny", accelerator=False))
    assert {len(ratios.of(variant, 25)) for variant in ("original", "f1")} == {16}


def test_an_unknown_model_has_none_until_it_is_calibrated(tmp_path):
    ratios = StepRatios(LocalFolder(TINY_FOLDER), tmp_path / "new")
    assert ratios.of("f1", 4) is None
    file = ratios.keep("f1", MEASURED)
    assert ratios.of("f1", 4) == MEASURED.ratios
    assert (ratios.of("original", 4), ratios.of("f1", 5)) == (None, None), "per variant and number of steps"
    for damaged in (b"", b"{}", b"[" * 10000, b'{"variant":"f1","ratios":["nan"]}', b'{"variant":"f1","ratios":[1]}'):
        file.write_bytes(damaged)
        assert ratios.of("f1", 4) is None


@pytest.mark.parametrize(
    "ratios",
    ["[1, NaN, 1, 1]", "[1, Infinity, 1, 1]", "[1, -1, 1, 1]", "[1, 1e999, 1, 1]", "[1, 1, 1]", "[1, 1, 1, 1, 1]"],
)
def test_ratios_that_none_can_be_do_not_count(tmp_path, ratios):
    known = StepRatios(LocalFolder(TINY_FOLDER), tmp_path)
    known.keep("f1", MEASURED).write_text(f'{{"variant": "f1", "ratios": {ratios}}}')
    assert known.of("f1", 4) is None


def test_another_variants_calibration_does_not_count(tmp_path):
    known = StepRatios(LocalFolder(TINY_FOLDER), tmp_path)
    files = [known.keep(variant, MEASURED) for variant in ("f1", "original")]
    files[1].replace(files[0])
    assert known.of("f1", 4) is None


def test_steps_that_change_nothing_are_not_kept():
    assert comparable(MEASURED) is MEASURED
    with pytest.raises(NumericsError, match="cannot be compared"):
        comparable(replace(MEASURED, ratios=(1.0, float("nan"), float("inf"), 1.0)))


def test_a_file_of_any_length_in_its_place_is_not_read(tmp_path):
    known = StepRatios(LocalFolder(TINY_FOLDER), tmp_path)
    with known.keep("f1", MEASURED).open("ab") as file:
        file.truncate(10**12)  # takes no room on the disk
    assert known.of("f1", 4) is None


@pytest.mark.parametrize(
    "given", ["[]", "123", '"123"', "[NaN]", "[1, -1]", "[1e999]", f"[{10**400}]", '{"1": 1}', "null"]
)
def test_a_model_folder_whose_ratios_are_none_is_a_sentence(tmp_path, given):
    (tmp_path / "framepack.json").write_text(f'{{"step_ratios": {{"f1": {given}}}}}')
    with pytest.raises(ModelFilesError, match=r"framepack\.json cannot be used"):
        read_settings(tmp_path)


def test_a_calibration_counts_before_what_the_folder_says(tmp_path):
    ratios = StepRatios(LocalFolder(SHIPPED), tmp_path)
    shipped = ratios.of("f1", 4)
    ratios.keep("f1", MEASURED)
    assert ratios.of("f1", 4) == MEASURED.ratios != shipped


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        StepRatios(LocalFolder(TINY_FOLDER), tmp_path / "file").keep("f1", MEASURED)


def test_without_a_folder_nothing_is_kept():
    ratios = StepRatios(LocalFolder(TINY_FOLDER))
    assert ratios.keep("f1", MEASURED) is None
    assert ratios.of("f1", 4) is None


@pytest.mark.parametrize(("config", "known"), [(PUBLISHED_SIZE, True), (PUBLISHED_SIZE | {"num_layers": 2}, False)])
def test_models_of_the_published_size_have_the_published_ratios(tmp_path, config, known):
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = SimpleNamespace(step_ratios={}, is_tiny=False, inspect=lambda part: (tmp_path, []))
    assert StepRatios(source).of("f1", 25) == (PUBLISHED["f1"] if known else None)
    missing = SimpleNamespace(step_ratios={}, is_tiny=False, inspect=lambda part: (None, []))
    assert StepRatios(missing).of("f1", 25) == PUBLISHED["f1"], "what will be downloaded"


def test_a_model_that_is_not_known_is_told_before_it_is_loaded():
    components = Components(LocalFolder(TINY_FOLDER), torch.device("cpu"))
    settings = sampling_settings(GenerationRequest(quality="quick"))
    with pytest.raises(SettingsError, match="calibrate"):
        require_step_cache(settings, components, ["f1"])
    require_step_cache(sampling_settings(GenerationRequest(step_cache="easycache")), components, ["f1"])


def test_a_new_calibration_is_another_environment_where_it_counts(tmp_path):
    components = Components(LocalFolder(SHIPPED), torch.device("cpu"))
    components.step_ratios = StepRatios(components.source, tmp_path)
    requests = GenerationRequest(steps=4, quality="quick"), GenerationRequest(steps=4)
    before = [environment_of(components, request, ["f1"]) for request in requests]
    components.step_ratios.keep("f1", MEASURED)
    quick, exact = (environment_of(components, request, ["f1"]) for request in requests)
    assert "the calibration of the model's steps changed" in differences(before[0], quick)
    assert differences(before[1], exact) == ""
