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
from tests.test_fp8_files import call
from tests.tiny import TINY_FOLDER

SOURCE = LocalFolder(TINY_FOLDER, is_tiny=True)
TRANSFORMER = parts.transformer_part("f1")
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
