"""The real loader and the real swap together: wherever the weights of the tiny models are, the numbers are the same."""

import pytest
import torch

from diffusers_helper.loading.building import build
from diffusers_helper.loading.components import LocalFolder
from diffusers_helper.loading.weights import Place, bytes_in_files
from diffusers_helper.memory import DynamicSwapInstaller
from diffusers_helper.memory.packing import block_layout, blocks_of
from diffusers_helper.model_files import parts
from tests.gpus import PatientGpu
from tests.layouts import plain as plain_fp8
from tests.layouts import scaled, weights_of, write_gguf_file, write_single
from tests.test_fp8_files import call
from tests.tiny import SHIPPED, TINY_FOLDER

SOURCE = LocalFolder(TINY_FOLDER, is_tiny=True)
TRANSFORMER, ORIGINAL = (parts.transformer_part(name) for name in ("f1", "original"))
CPU = torch.device("cpu")


def load(part, place, fp8=None):
    return build(part, SOURCE.folder(part), torch.float32, place, lambda text, done, total: None, fp8)


def half_of(model):
    return sum(block_layout(block).streamed_bytes for block in blocks_of(model)) / 2


@pytest.fixture(scope="module")
def eight_bit_file(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "eight_bit.safetensors"


@pytest.mark.parametrize("rounded", [False, True], ids=["exact", "8 bits"])
@pytest.mark.parametrize("share", [None, 0, 0.5], ids=["in RAM", "in files", "half of each"])
def test_the_transformer(share, rounded, eight_bit_file):
    file = eight_bit_file if rounded else None
    plain = load(TRANSFORMER, Place(CPU), file)
    place = Place(CPU) if share is None else Place(CPU, ram=2 * share * half_of(plain), stream=True)
    model, expected = load(TRANSFORMER, place, file), call(plain)
    assert (bytes_in_files(model) > 0) is (share is not None)
    assert (bytes_in_files(model) < 1.9 * half_of(plain)) is (share != 0)
    DynamicSwapInstaller.install_model(model, CPU, streams=PatientGpu(), slots=2)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(call(model), expected)
    DynamicSwapInstaller.uninstall_model(model)


@pytest.fixture(scope="module", params=["scaled", "e5m2", "Q4_K", "text encoder"])
def quantised(request, tmp_path_factory):
    """A transformer, or the text encoder, in a form that stays in RAM as it is; and what it computes, expanded."""
    part, file = quantised_file(request.param, tmp_path_factory.mktemp("quantised"))
    expanded = build(part, file, torch.float32, Place(CPU), lambda *_: None)
    return part, file, run(part, expanded), half_of(expanded)


def run(part, model):
    return model(IDS).last_hidden_state if part is parts.TEXT_ENCODER else call(model)


def quantised_file(form, folder):
    if form == "Q4_K":
        write_gguf_file(folder / "x.gguf", ORIGINAL, weights_of(ORIGINAL, SHIPPED), SHIPPED, form)
        return ORIGINAL, folder / "x.gguf"
    part = parts.TEXT_ENCODER if form == "text encoder" else TRANSFORMER
    weights = weights_of(part, TINY_FOLDER)
    stored, _ = plain_fp8(weights, torch.float8_e5m2) if form == "e5m2" else scaled(weights)
    return part, write_single(folder / "x.safetensors", part, stored, TINY_FOLDER)


@pytest.mark.parametrize("share", [0, 0.5, 2], ids=["in files", "half of each", "in RAM"])
def test_quantised_weights_travel_as_they_are_stored(quantised, share):
    """Scales that are in no file, and modulation weights that stay in theirs, among them."""
    part, file, expected, large = quantised

    def loaded(place):
        return build(part, file, torch.float32, place, lambda *_: None)

    small = half_of(loaded(Place(CPU, as_stored=True)))
    assert small < 0.3 * large
    model = loaded(Place(CPU, ram=2 * share * small, stream=True, as_stored=True))
    DynamicSwapInstaller.install_model(model, CPU, streams=PatientGpu(), slots=2)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(run(part, model), expected)
    sent = DynamicSwapInstaller.prefetcher_of(model).sizes
    assert sum(sent) == 2 * small
    DynamicSwapInstaller.uninstall_model(model)


IDS = torch.arange(40)[None] % 50


def test_the_text_encoder_from_its_files():
    ids = torch.arange(40)[None] % 50
    plain = load(parts.TEXT_ENCODER, Place(CPU))
    model = load(parts.TEXT_ENCODER, Place(CPU, ram=0, stream=True))
    assert bytes_in_files(model) == 2 * half_of(plain)
    DynamicSwapInstaller.install_model(model, CPU, streams=PatientGpu(), slots=2)
    with torch.inference_mode():
        states = [each(ids, output_hidden_states=True, use_cache=False).hidden_states[-3] for each in (plain, model)]
    assert torch.equal(*states)
    DynamicSwapInstaller.uninstall_model(model)
