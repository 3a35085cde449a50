"""peft's adapter_config.json beside a LoRA file: when it counts, and what is said where it cannot."""

import json

import pytest
import torch
from safetensors.torch import save_file

from diffusers_helper.core.errors import LoraError, SettingsError
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.loading.lora_files import LoraFiles
from diffusers_helper.lora.files import read_file
from diffusers_helper.lora.names import ModuleNames
from diffusers_helper.lora.reading import adapter_of
from diffusers_helper.model_files.lora_library import LoraLibrary, sha256_of
from tests.models import golden_transformer

QUERY = "transformer_blocks.0.attn.to_q"


@pytest.fixture
def names():
    return ModuleNames(golden_transformer())


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def save(folder, settings, prefix="base_model.model.", metadata=None, extra=None):
    """A file of rank 2 with settings beside it."""
    tensors = {f"{prefix}{QUERY}.lora_A.weight": torch.ones(2, 32), f"{prefix}{QUERY}.lora_B.weight": torch.ones(32, 2)}
    save_file(tensors | (extra or {}), path := folder / "adapter_model.safetensors", metadata=metadata)
    if settings is not None:
        text = settings if isinstance(settings, str) else json.dumps(settings)
        (folder / "adapter_config.json").write_text(text)
    return path


def scale(path, names):
    """By what the product of the file's factors counts."""
    ((change,),) = adapter_of(read_file(path), names).changes.values()
    return float(change.delta(torch.zeros(32, 32), 1.0)[0, 0]) / 2


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (None, 1),
        ({}, 1),
        ({"lora_alpha": 6}, 3),
        ({"r": 2, "lora_alpha": 6, "use_rslora": True}, 6 / 2**0.5),
        ({"r": 8, "rank_pattern": {"to_q": 2}, "lora_alpha": 6}, 3),
        ({"r": 2, "lora_alpha": 6, "alpha_pattern": {"to_q": 8}}, 4),
        ({"r": 2, "lora_alpha": 6, "alpha_pattern": {"o_q": 8, f"^{QUERY}": 1, "to_q": 2}}, 0.5),
        ({"r": 2, "lora_alpha": 6, "alpha_pattern": {"^attn.to_q": 8}}, 3),
        ({"r": 2, "lora_alpha": 6, "alpha_pattern": {r"attn\.to_q": 8}}, 4),
    ],
)
def test_settings_beside_a_file_of_peft_are_its_own(settings, wanted, folder, names):
    assert scale(save(folder, settings), names) == pytest.approx(wanted)


def test_settings_of_another_program_or_in_the_file_come_first(folder, names):
    beside = {"r": 2, "lora_alpha": 6}
    assert scale(save(folder, beside, prefix="transformer."), names) == 1
    header = {"lora_adapter_metadata": json.dumps({"lora_alpha": 10})}
    assert scale(save(folder, beside, metadata=header), names) == 5
    alpha = {f"base_model.model.{QUERY}.alpha": torch.tensor(8.0)}
    assert scale(save(folder, beside, extra=alpha), names) == 4


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("{", "adapter_config.json beside the LoRA file is damaged"),
        ("[1]", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ({"r": 4, "lora_alpha": 6}, "settings that are not its own: they say rank 4 for base_model.*, and it has 2"),
        ({"r": 2, "alpha_pattern": {"(a+)+$": 1}}, r"by a pattern that is not read: \(a\+\)\+\$"),
        ({"r": 2, "rank_pattern": {".*to_q": 2}}, "by a pattern that is not read"),
    ],
)
def test_settings_that_are_no_good_are_a_sentence(settings, problem, folder, names):
    with pytest.raises(LoraError, match=problem):
        adapter_of(read_file(save(folder, settings)), names)


def test_a_folder_in_place_of_settings_is_a_sentence(folder):
    path = save(folder, None)
    (folder / "adapter_config.json").mkdir()
    for read in (read_file, sha256_of):
        with pytest.raises((LoraError, SettingsError), match="cannot be read"):
            read(path)


def test_other_settings_make_another_file(folder):
    """A video is not continued with another alpha; the page and the generator tell it by the same digest."""
    path = save(folder, {"lora_alpha": 6})
    files, library = LoraFiles((folder,)), LoraLibrary((folder,))
    request = files.identified(GenerationRequest(loras=(Lora(name=path.name, weight=1.0),)))
    assert request.loras[0].sha256 == library.sha256(*library.files()) == sha256_of(path) == read_file(path).sha256
    save(folder, {"lora_alpha": 60})
    with pytest.raises(LoraError, match="is not the one that the video was made with"):
        files.identified(request)
    assert request.loras[0].sha256 != library.sha256(*library.files()) == sha256_of(path) == read_file(path).sha256
