"""Videos with LoRA files, from the request to the latents, on the tiny models."""

import hashlib
import json
import os
import shutil
from contextlib import closing

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_helper.core.directing import direct
from diffusers_helper.core.errors import LoraError, SettingsError
from diffusers_helper.core.events import Finished, Note, SectionSampled, StageStarted, StepDone
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.generate import generate
from diffusers_helper.generation.models import ModelLoader
from diffusers_helper.generation.sampling import work_of
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.lora_files import LoraFiles
from diffusers_helper.media.clip import open_clip
from diffusers_helper.media.edits import extended
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.recipe import read_recipe
from diffusers_helper.memory import MemoryPolicy, Residency
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.model_files.parts import transformer_part
from diffusers_helper.model_files.weight_files import weight_files
from tests.gpus import PatientGpu
from tests.odd_videos import video
from tests.test_generation import photo, quick_decoding  # noqa: F401 - a fixture
from tests.tiny import TINY_FOLDER

SMALL = {"prompt": "the camera pans left", "seconds": 2.4, "steps": 1, "seed": 5, "width": 64, "height": 64}
MODULES = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.norm1.linear",
    "single_transformer_blocks.0.proj_mlp",
    "single_transformer_blocks.0.norm.linear",
    "context_embedder.token_refiner.refiner_blocks.0.attn.to_k",
    "proj_out",
)
"""What is read in every step, once per video, by the text refiner, and last."""
VARIANTS = (pytest.param("original", marks=pytest.mark.slow), "f1")


@pytest.fixture(scope="module")
def components():
    return Components(LocalFolder(TINY_FOLDER), "cpu")


@pytest.fixture(scope="module")
def folder(components, tmp_path_factory):
    """Two LoRA files, named after their seeds."""
    folder = tmp_path_factory.mktemp("loras")
    for seed in (1, 2):
        save_file(factors(components, seed), folder / f"{seed}.safetensors")
    components.loras = LoraFiles([folder])
    return folder


@pytest.fixture(autouse=True)
def _quick(folder):
    with quick_decoding():
        yield


def factors(components, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in MODULES:
        rows, columns = components.transformer("f1").get_submodule(name).weight.shape
        tensors[f"diffusion_model.{name}.lora_A.weight"] = torch.randn(2, columns, generator=generator) / 4
        tensors[f"diffusion_model.{name}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) / 4
    return tensors


class Planned(Components):
    """Shares memory as it was told, and plans nothing anew."""

    def plan_memory(self, preserved_gb):
        pass


def events_of(components, photo, output, checkpoint=None, **changes):  # noqa: F811 - the fixture's value
    request = GenerationRequest(**(SMALL | changes))
    inputs = JobInputs(request, {"start": photo})
    return generate(inputs, components=components, output=output, checkpoint=checkpoint)


def latents_of(*args, **changes):
    sampled = [e.latents for e in events_of(*args, **changes) if isinstance(e, SectionSampled)]
    assert all(latents.isfinite().all() for latents in sampled)
    return sampled


def same(ours, wanted):
    return [torch.equal(a, b) for a, b in zip(ours, wanted, strict=True)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_change_a_video_as_merged_weights_do_and_leave_no_trace(components, folder, photo, tmp_path, variant):  # noqa: F811
    plain = latents_of(components, photo, tmp_path / "a", variant=variant)
    ours = latents_of(components, photo, tmp_path / "b", variant=variant, loras={"1": 0.8, "2.safetensors": -0.5})
    assert same(latents_of(components, photo, tmp_path / "c", variant=variant), plain) == [True, True]
    other = Components(LocalFolder(TINY_FOLDER), "cpu")
    transformer = other.transformer(variant)
    for seed, weight in ((1, 0.8), (2, -0.5)):
        tensors = factors(components, seed)
        for name in MODULES:
            up, down = (tensors[f"diffusion_model.{name}.lora_{side}.weight"] for side in "BA")
            transformer.get_submodule(name).weight.data += weight * (up @ down)
    for section, wanted, without in zip(
        ours, latents_of(other, photo, tmp_path / "d", variant=variant), plain, strict=True
    ):
        assert (section - wanted).abs().max() < 1e-4 * wanted.std()
        assert (section - without).abs().max() > 0.01 * wanted.std()


@pytest.mark.slow
def test_given_videos_have_them_too(components, tmp_path):
    clip = open_clip(video(tmp_path / "given.mp4", 5, size=(160, 96)))
    request = GenerationRequest(**SMALL | {"seconds": 1.2, "resolution": 128, "variant": "f1"})
    sampled = {}
    for name, loras in {"plain": (), "changed": ["1=0.8"], "again": ()}.items():
        inputs = extended(GenerationRequest.from_fields(request.model_dump() | {"loras": loras}), clip)
        events = generate(inputs, components=components, output=tmp_path / name)
        sampled[name] = [event.latents for event in events if isinstance(event, SectionSampled)]
    assert same(sampled["again"], sampled["plain"]) == [True]
    assert same(sampled["changed"], sampled["plain"]) == [False]
    [lora] = read_recipe(tmp_path / "changed.mp4").settings["loras"]
    assert (lora.text, len(lora.sha256)) == ("1=0.8", 64)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_over_time(components, photo, tmp_path, variant):  # noqa: F811
    """A section at weight 0 has a plain video's bits, and one at 1 those of a video at 1, while they follow nothing."""
    first = 0 if variant == "f1" else 1
    weights = "[0s-1.2s: 0] [1.2s-: 1]" if variant == "f1" else "[0s-1.2s: 1] [1.2s-: 0]"
    timed = latents_of(components, photo, tmp_path / "a", variant=variant, loras=[f"1={weights}"])
    plain = latents_of(components, photo, tmp_path / "b", variant=variant)
    assert same(timed, plain) == [True, False]  # the first one sampled
    swapped = {"f1": "[0s-1.2s: 1]", "original": "[1.2s-: 1]"}[variant]
    ones = latents_of(components, photo, tmp_path / "c", variant=variant, loras=["1"])
    timed = latents_of(components, photo, tmp_path / "d", variant=variant, loras=[f"1={swapped}"])
    assert same(timed, ones) == [True, False]
    cues = direct(GenerationRequest(**SMALL | {"variant": variant, "loras": [f"1={weights}"]}))
    by_time = sorted(cues.plan.sections, key=lambda section: section.output_index)
    assert [cues.cues[section.prompt].loras for section in by_time][first] == (0.0,)


@pytest.mark.slow
@pytest.mark.parametrize("loras", [["1=0.7", "2=0.3"], ["1=[0s-1.2s: 0.5] [1.2s-: 1]", "2=[1.2s-: -1]"]])
def test_a_model_that_swaps_makes_the_same_bits(components, folder, photo, tmp_path, loras):  # noqa: F811
    wanted = latents_of(components, photo, tmp_path / "a", loras=loras)
    other = Planned(LocalFolder(TINY_FOLDER), "cpu")
    other.loras = components.loras
    policy = MemoryPolicy(resident=False, preserved_gb=1e6, tile_vae=False)
    other.residency = Residency("cpu", policy, streams=PatientGpu())
    for name in "bc":
        assert all(same(latents_of(other, photo, tmp_path / name, loras=loras), wanted))
    plain = latents_of(components, photo, tmp_path / "d")
    assert all(same(latents_of(other, photo, tmp_path / "e"), plain))


@pytest.mark.parametrize("loras", [["1=0.8"], ["1=[0s-1.2s: 0.2] [1.2s-: 1]", "2"]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_video_that_was_cut_off_goes_on_to_the_same_bits(components, photo, tmp_path, variant, loras):  # noqa: F811
    how = {"variant": variant, "loras": loras}
    wanted = latents_of(components, photo, tmp_path / "a", **how)
    with closing(events_of(components, photo, tmp_path / "b", Checkpoint(tmp_path / "job"), **how)) as events:
        for event in events:
            if isinstance(event, SectionSampled):
                first = event.latents
                break
        for event in events:  # it is kept with the next event
            if not isinstance(event, SectionSampled):
                break
    components.transformer(variant)  # something else in between
    checkpoint = Checkpoint(tmp_path / "job")
    assert len(checkpoint) == 1
    events = list(events_of(components, photo, tmp_path / "b", checkpoint, **how))
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, StepDone) for event in events) == 1
    second = [event.latents for event in events if isinstance(event, SectionSampled)][-1]
    assert same([first, second], wanted) == [True, True]


def test_the_recipe_names_the_files_and_a_note_tells_what_is_used(components, folder, photo, tmp_path):  # noqa: F811
    events = list(events_of(components, photo, tmp_path / "a", loras=["1=0.8"]))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert f"LoRA 1.safetensors: all {len(MODULES)} modules are used." in notes
    digest = hashlib.sha256((folder / "1.safetensors").read_bytes()).hexdigest()
    written = {"name": "1", "weight": 0.8, "sha256": digest}
    assert json.loads((tmp_path / "a.json").read_text())["loras"] == [written]
    assert read_recipe(tmp_path / "a.mp4").settings["loras"][0].sha256 == digest


def faults(components, photo, tmp_path, loras):  # noqa: F811
    """What is said, which has to be before any model is loaded."""
    other = Components(LocalFolder(TINY_FOLDER), "cpu")
    other.loras = components.loras
    with pytest.raises((LoraError, SettingsError)) as caught:
        next(event for event in events_of(other, photo, tmp_path / "a", loras=loras) if isinstance(event, StageStarted))
    return str(caught.value)


def test_another_file_under_the_same_name_is_a_question(components, folder, photo, tmp_path):  # noqa: F811
    save_file(factors(components, 3), path := folder / "changing.safetensors")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    given = [{"name": "changing", "weight": 1.0, "sha256": digest}]
    list(events_of(components, photo, tmp_path / "a", loras=given))
    save_file(factors(components, 4), path)
    assert "not the one that the video was made with" in faults(components, photo, tmp_path, given)
    path.unlink()
    assert "no such file" in faults(components, photo, tmp_path, given)


def test_files_that_do_not_fit_are_refused_before_anything_is_loaded(components, folder, photo, tmp_path):  # noqa: F811
    save_file(
        {"proj_out.lora_A.weight": torch.ones(2, 3072), "proj_out.lora_B.weight": torch.ones(64, 2)},
        path := folder / "wide.safetensors",
    )
    assert "another shape" in faults(components, photo, tmp_path, ["wide"])
    path.write_bytes(b"PK\x03\x04 a pickle")
    assert "is a pickle" in faults(components, photo, tmp_path, ["wide"])
    assert "folder" in faults(components, photo, tmp_path, [str(folder)])


def test_files_are_read_once_while_they_stay_as_they_are(folder, tmp_path):
    """Whether one is read shows in its digest: other bytes are put in its place, and it looks as it did."""
    one, two = ((folder / f"{seed}.safetensors").read_bytes() for seed in (1, 2))
    first, second = (hashlib.sha256(content).hexdigest() for content in (one, two))
    (tmp_path / "1.safetensors").write_bytes(one)
    (path := tmp_path / "2.safetensors").write_bytes(two)
    looks = path.stat()
    files = LoraFiles([tmp_path])

    def replaced(content, later=0):
        path.write_bytes(content)
        os.utime(path, ns=(looks.st_atime_ns, looks.st_mtime_ns + later))

    def digests(*names):
        return [lora.sha256 for lora in files.identified(GenerationRequest(loras=names)).loras]

    assert digests("1", "2") == [first, second]
    replaced(one)
    assert digests("1", "2") == [first, second]
    replaced(one, later=1)
    assert digests("1", "2") == [first, first]
    replaced(two, later=1)
    assert digests("1") == [first]
    assert digests("1", "2") == [first, second]  # what nobody asks for is not kept


@pytest.mark.slow
def test_a_model_whose_files_changed_is_loaded_anew(components, folder, photo, tmp_path):  # noqa: F811
    """The new files have no single blocks, so the old ones' changed weights cannot be read again from them."""
    models = shutil.copytree(TINY_FOLDER, tmp_path / "models")
    ours = Components(LocalFolder(models), "cpu")
    ours.loras = components.loras
    list(events_of(ours, photo, tmp_path / "a", loras=["1"]))
    part = transformer_part(GenerationRequest(**SMALL).variant)
    config = part.config_file(place := ours.source.folder(part))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_single_layers": 0}))
    files = weight_files(part, place)
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items() if "single_" not in name}
    for file in place.glob(f"{part.weights}*"):
        file.unlink()
    save_file(tensors, place / f"{part.weights}.safetensors")
    wanted = latents_of(Components(LocalFolder(models), "cpu"), photo, tmp_path / "b")
    assert same(wanted, latents_of(components, photo, tmp_path / "c")) == [False, False]
    assert same(latents_of(ours, photo, tmp_path / "d"), wanted) == [True, True]


def test_a_change_that_fails_costs_the_model_and_not_the_next_video(components, photo, tmp_path, monkeypatch):  # noqa: F811
    plain = latents_of(components, photo, tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "addmm", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(events_of(components, photo, tmp_path / "b", loras=["1"]))
    assert same(latents_of(components, photo, tmp_path / "c"), plain) == [True, True]


@pytest.mark.parametrize(("name", "constant"), [(None, True), ("1", False)])
def test_weights_that_a_lora_file_changes_are_not_taken_for_constant(components, folder, name, constant):
    """Not where it is merged either: which weights a section has is decided when it begins."""
    loras = [Lora(name=str(folder / f"{name}.safetensors"))] if name else []
    request = GenerationRequest(**SMALL, loras=loras)
    settings, cues, found = sampling_settings(request), direct(request).cues, []

    def load():
        loader = ModelLoader(components, settings, work_of(settings, 64, 64), lambda: None, loras, cues)
        found.append((yield from loader.sampler("f1")).execution.constant)

    list(load())
    assert found == [constant]
