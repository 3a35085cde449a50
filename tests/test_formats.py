"""Files whose tensors mean something else than a model's weights: each is one sentence, before any weight is read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_helper.core.errors import ModelFilesError, SettingsError
from diffusers_helper.model_files import LocalFolder, parts, resolve_models, transformer_part
from diffusers_helper.model_files.check import find_problems
from diffusers_helper.model_files.contents import quantised_as, stored_numbers
from diffusers_helper.model_files.formats import foreign_format, scales_of
from diffusers_helper.model_files.problems import Fault
from tests.test_model_files import VAE_FILE, copy_part, write
from tests.tiny import TINY_FOLDER

F1 = transformer_part("f1")
SHARD = "diffusion_pytorch_model-00001-of-00003.safetensors"
FIRST = {"model.safetensors", VAE_FILE, SHARD}


def change(folder, edit):
    """Change the tensors of the first weight file of a part."""
    (file,) = (folder / name for name in FIRST if (folder / name).is_file())
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)
    return file.name


def add(*names, dtype=torch.float32, shape=(1,)):
    return lambda tensors: tensors.update({name: torch.ones(shape).to(dtype) for name in names})


LAYER = "transformer_blocks.0.attn.to_q"
FOREIGN = [
    (add("lora_unet_blocks_0.lora_down.weight"), "changes to a model (LoRA)"),
    (add("transformer_blocks.0.attn.to_q.lora_A.weight"), "changes to a model (LoRA)"),
    (add("transformer_blocks.0.attn.to_q.alpha"), "changes to a model (LoRA)"),
    (add("double_blocks.0.img_attn.qkv.weight"), "HunyuanVideo with its first names"),
    (add("model.diffusion_model.img_in.proj.weight"), "HunyuanVideo with its first names"),
    (add("blk.0.attn_q.weight"), "a language model for llama.cpp"),
    (add(f"{LAYER}.weight.absmax", f"{LAYER}.weight.quant_map"), "quantised with bitsandbytes"),
    (add(f"{LAYER}.weight.quant_state.bitsandbytes__nf4"), "quantised with bitsandbytes"),
    (add(f"{LAYER}.SCB"), "quantised with bitsandbytes"),
    (add(f"{LAYER}.qweight", f"{LAYER}.qzeros"), "quantised with GPTQ or AWQ"),
    (add(f"{LAYER}.weight._data", f"{LAYER}.weight._scale"), "quantised with quanto or torchao"),
    (add(f"{LAYER}.weight_scale_inv"), "a scale of quantised weights"),
    (add(f"{LAYER}.weight_scale"), "a scale of quantised weights"),  # the weight has 16 bits
    (add("nowhere.scale_weight"), "a scale of quantised weights"),
    (add("scaled_fp8"), "a scale of quantised weights"),
    (add(f"{LAYER}.input_scale"), "a scale of quantised weights"),
]


@pytest.mark.parametrize("part", [F1, parts.TEXT_ENCODER, parts.VAE, parts.TEXT_ENCODER_2], ids=lambda part: part.name)
@pytest.mark.parametrize(("edit", "kind"), FOREIGN)
def test_another_format_is_named(tmp_path, part, edit, kind):
    folder = copy_part(part, tmp_path)
    name = change(folder, edit)
    (problem,) = find_problems(part, folder)
    assert (problem.fault, problem.file) == (Fault.FOREIGN, name)
    assert kind in problem.text
    with pytest.raises(ModelFilesError, match="Put the files of"):
        LocalFolder(tmp_path).folder(part)


def header(entries):
    return {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in entries.items()}


@pytest.mark.parametrize("form", ["F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("shape", [[], [1], [4], [4, 1]])
def test_scales_of_one_number_and_of_rows_are_known(form, shape):
    found = header({"a.weight": (form, [4, 8]), "a.weight_scale": ("F32", shape), "scaled_fp8": (form, [0])})
    assert scales_of(found) == {"a.weight": "a.weight_scale"}
    assert foreign_format(found) is None


@pytest.mark.parametrize("shape", [[2], [8], [1, 8], [2, 2], [4, 1, 1]])
def test_scales_of_blocks_are_refused(shape):
    found = header({"a.weight": ("F8_E4M3", [4, 8]), "a.weight_scale": ("F32", shape)})
    assert scales_of(found) == {}
    assert "holds a.weight_scale" in foreign_format(found)


def test_a_quantised_config_is_refused(tmp_path):
    folder = copy_part(F1, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    write("config.json", config | {"quantization_config": {"quant_method": "bitsandbytes"}})(folder)
    (problem,) = find_problems(F1, folder)
    assert "quantised (bitsandbytes), which are not read" in problem.text


@pytest.mark.parametrize(
    ("name", "kind"), [("flux.gguf", "a GGUF file"), ("FramePackI2V_HY_fp8.safetensors", "a single file, as ComfyUI")]
)
def test_files_of_another_kind_are_named_instead_of_called_missing(tmp_path, name, kind):
    folder = copy_part(parts.VAE, tmp_path)
    (folder / VAE_FILE).rename(folder / name)
    (problem,) = find_problems(parts.VAE, folder)
    assert (problem.file, problem.fault) == (name, Fault.FOREIGN)
    assert kind in problem.text
    with pytest.raises(SettingsError, match=rf"{name} is {kind}.*and a model has several parts\. Choose framepack"):
        resolve_models(str(folder / name), accelerator=True)


def in_fp8(folder):
    """The transformer's matrices as plain float8, without a scale."""
    for file in folder.glob("*.safetensors"):
        tensors = {n: w.to(torch.float8_e4m3fn) if w.dim() == 2 else w for n, w in load_file(file).items()}
        save_file(tensors, file)


def test_numbers_are_counted_whatever_their_form(tmp_path):
    folder = copy_part(F1, tmp_path)
    before = stored_numbers(F1, folder)
    assert not quantised_as(F1, folder)
    in_fp8(folder)
    after = stored_numbers(F1, folder)
    assert quantised_as(F1, folder) == "fp8"
    assert sum(after.values()) == sum(before.values())
    assert find_problems(F1, folder) == []
    (folder / SHARD).write_bytes(b"")
    assert stored_numbers(F1, folder) == {}


def test_the_published_layout_has_none_of_it():
    for file in sorted(TINY_FOLDER.rglob("*.safetensors")):
        entries = {n: {"dtype": "F16", "shape": list(w.shape)} for n, w in load_file(file).items()}
        assert foreign_format(entries) is None
