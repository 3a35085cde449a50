"""Weights as other programs have them give the numbers of the same weights in the published layout.

In 16 bits these are the same bits. A quantised file gives, bit for bit, what its expanded numbers give in the published
layout. Each matrix is within the rounding of its format, and the model's output within four times that.
"""

import json
import shutil

import pytest
import torch

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.loading.components import Components, ComputeOptions, LocalFolder
from diffusers_helper.memory.packing import block_layout, blocks_of
from diffusers_helper.model_files import parts, resolve_models, transformer_part
from diffusers_helper.model_files.named_files import NamedFiles
from diffusers_helper.models.fp8 import Fp8Linear
from diffusers_helper.models.gguf import GgufLinear
from tests.layouts import COMFYUI, comfyui, is_matrix, plain, scaled, weights_of, write_gguf_file, write_single
from tests.test_fp8_files import call
from tests.tiny import SHIPPED, TINY_FOLDER

F1, ORIGINAL = transformer_part("f1"), transformer_part("original")
SLOW = pytest.mark.slow
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def named(folder, **places):
    """The model whose framepack.json names these files."""
    (folder / "framepack.json").write_text(json.dumps({"parts": {name: str(place) for name, place in places.items()}}))
    source = resolve_models(str(folder), accelerator=False)
    assert isinstance(source, NamedFiles)
    return source


def on_cpu(source, **options):
    return Components(source, "cpu", ComputeOptions(**options))


def error(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


def published(folder, part, weights):
    """The same numbers in the published layout, in 32 bits."""
    place = folder / "published" / part.repository / part.folder
    shutil.copytree(SHIPPED / part.repository / part.folder, place, ignore=shutil.ignore_patterns("*.safetensors*"))
    write_single(place / f"{part.weights}.safetensors", part, weights, SHIPPED)
    return LocalFolder(folder / "published")


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_single_file_in_16_bits_is_the_published_model(tmp_path, prefix, dtype):
    weights = {name: weight.to(dtype) for name, weight in weights_of(ORIGINAL, SHIPPED).items()}
    file = write_single(tmp_path / "x.safetensors", ORIGINAL, weights, SHIPPED, prefix)
    loaded = on_cpu(named(tmp_path, transformer_f1=file)).transformer("f1")
    assert torch.equal(call(loaded), call(on_cpu(published(tmp_path, ORIGINAL, weights)).transformer("original")))


QUANTISED = {
    "plain e4m3": (lambda weights: plain(weights, E4M3), "fp8 files", 0.04),
    "plain e5m2": (lambda weights: plain(weights, E5M2), "fp8 files", 0.08),
    "scale_weight": (scaled, "fp8 files", 0.04),
    "weight_scale": (lambda weights: scaled(weights, "weight_scale"), "fp8 files", 0.04),
    **{kind: (kind, f"GGUF {kind}", bound) for kind, bound in
       {"Q8_0": 0.01, "Q6_K": 0.025, "Q5_K": 0.05, "Q4_K": 0.09}.items()},
}  # fmt: skip
"""How the file is made, what the environment calls it, and the relative error of a matrix at most (Frobenius norm)."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW) if name in ("Q6_K", "Q5_K") else name for name in QUANTISED]
)
def test_a_quantised_file_is_what_its_numbers_are(tmp_path, name):
    make, words, bound = QUANTISED[name]
    weights = weights_of(ORIGINAL, SHIPPED)
    if callable(make):
        stored, meant = make(weights)
        file = write_single(tmp_path / "x.safetensors", ORIGINAL, stored, SHIPPED, "diffusion_model.")
    else:
        meant = write_gguf_file(file := tmp_path / "x.gguf", ORIGINAL, weights, SHIPPED, make)
    components = on_cpu(named(tmp_path, transformer_f1=file))
    loaded, exact = components.transformer("f1"), on_cpu(published(tmp_path, ORIGINAL, meant)).transformer("original")
    found = call(loaded)
    assert torch.equal(found, call(exact))
    errors = [error(meant[name], weight.float()) for name, weight in weights.items() if is_matrix(name, weight)]
    assert 0 < max(errors) < bound
    assert error(found, call(on_cpu(LocalFolder(SHIPPED)).transformer("original"))) < 4 * bound
    kept = [module for block in blocks_of(loaded) for module in block.modules() if isinstance(module, torch.nn.Linear)]
    assert {type(layer) for layer in kept} == {Fp8Linear if callable(make) else GgufLinear}
    held, floats = (sum(block_layout(block).nbytes for block in blocks_of(model)) for model in (loaded, exact))
    assert held < floats * (0.3 if make == "Q8_0" else 0.27)
    held = sum(tensor.nbytes for tensor in (*loaded.parameters(), *loaded.buffers()))
    assert 0.97 < components.placement.ram_need(F1, file, components.policy) / held <= 1.01
    assert components.environment.of_video("f1")["weights"] == words
    assert [note for note in components.notes_on(loaded) if "pictures differ" in note]


@pytest.mark.parametrize("make", [scaled, pytest.param("Q4_K", marks=SLOW)])
def test_expanded_or_in_its_form_a_weight_has_the_same_bits(tmp_path, make):
    """Where everything stays on a GPU weights are expanded once, elsewhere whenever they are read."""
    from diffusers_helper.loading.building import build
    from diffusers_helper.loading.weights import Place

    if callable(make):
        file = write_single(tmp_path / "x.safetensors", F1, make(weights_of(F1, TINY_FOLDER))[0], TINY_FOLDER)
    else:
        write_gguf_file(file := tmp_path / "x.gguf", ORIGINAL, weights_of(ORIGINAL, SHIPPED), SHIPPED, make)
    for dtype in (torch.float32, torch.bfloat16):
        models = [
            build(F1, file, dtype, Place(torch.device("cpu"), as_stored=as_stored), lambda *_: None)
            for as_stored in (False, True)
        ]
        for name, module in models[0].named_modules():
            if isinstance(module, torch.nn.Linear):
                assert torch.equal(models[1].get_submodule(name).weight, module.weight), name


def test_rows_that_are_no_whole_blocks_fall_back(tmp_path):
    """The micro model's rows of 96 are none of 256 numbers: llama.cpp writes Q5_0 there."""
    meant = write_gguf_file(file := tmp_path / "x.gguf", F1, weights_of(F1, TINY_FOLDER), TINY_FOLDER, "Q4_K")
    components = on_cpu(named(tmp_path, transformer_f1=file))
    loaded = components.transformer("f1")
    assert components.environment.of_video("f1")["weights"] == "GGUF Q5_0"
    for name, module in loaded.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert torch.equal(module.weight, meant[f"{name}.weight"]), name


def test_fp8_as_asked_leaves_quantised_files_as_they_are(tmp_path):
    stored, _ = scaled(weights_of(F1, TINY_FOLDER))
    file = write_single(tmp_path / "x.safetensors", F1, stored, TINY_FOLDER)
    with_option, without = (on_cpu(named(tmp_path, transformer_f1=file), fp8=fp8) for fp8 in (tmp_path / "fp8", None))
    assert torch.equal(call(with_option.transformer("f1")), call(without.transformer("f1")))
    assert not (tmp_path / "fp8").exists()
    assert with_option.environment.of_video("f1") == without.environment.of_video("f1")


def encoded(components):
    """What all parts but the transformers compute."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(), components.text() as text, components.vision() as vision, components.vae() as vae:
        ids = torch.tensor([[1, 5, 9, 30, 2]])
        pixels = torch.randn(1, 3, 64, 64, generator=generator)
        side = vision.image_encoder.config.image_size
        pixels = torch.nn.functional.interpolate(pixels, (side, side))
        return [
            text.text_encoder(ids).last_hidden_state,
            text.text_encoder_2(ids).pooler_output,
            vision.image_encoder(pixels).last_hidden_state,
            vae.decode(torch.randn(1, 16, 2, 8, 8, generator=generator), return_dict=False)[0],
            vae.encode(pixels[:, :, None, :64, :64]).latent_dist.mode(),
        ]


@pytest.mark.slow
def test_comfyuis_folder_is_the_published_model(tmp_path):
    source = resolve_models(str(comfyui(tmp_path / "ComfyUI" / "models", TINY_FOLDER).parent), accelerator=False)
    source.check(["original", "f1"])
    found = {name: str(place.relative_to(tmp_path)) for name, place in source.places.items() if place.is_file()}
    assert found == {part.name: f"ComfyUI/models/{name}" for part, (name, _) in COMFYUI.items()}
    components, exact = on_cpu(source), on_cpu(LocalFolder(TINY_FOLDER))
    for one, other in zip(encoded(components), encoded(exact), strict=True):
        assert torch.equal(one, other)
    for variant in ("original", "f1"):
        assert torch.equal(call(components.transformer(variant)), call(exact.transformer(variant)))
    assert components.environment.of_video("f1")["weights"] == "exact"


def test_a_scaled_text_encoder_stays_in_8_bits(tmp_path):
    meant = {}

    def change(part, weights):
        if part is not parts.TEXT_ENCODER:
            return weights
        stored, meant["weights"] = scaled(weights)
        return stored

    components = on_cpu(resolve_models(str(comfyui(tmp_path / "models", TINY_FOLDER, change)), accelerator=False))
    with components.text() as text:
        layers = [module for module in text.text_encoder.modules() if isinstance(module, Fp8Linear)]
        assert len(layers) == 7 * len(text.text_encoder.layers)
        assert all(len(layer.scales) == 1 for layer in layers)
        for name, weight in meant["weights"].items():
            owner, _, leaf = name.rpartition(".")
            assert torch.equal(getattr(text.text_encoder.get_submodule(owner), leaf), weight), name


def test_half_precision_twins_and_shards_without_an_index(tmp_path):
    shutil.copytree(TINY_FOLDER, tmp_path / "models")
    place = tmp_path / "models" / F1.repository
    (place / "diffusion_pytorch_model.safetensors.index.json").unlink()
    for file in place.glob("*.safetensors"):
        file.rename(file.with_name(file.name.replace("model-", "model.fp16-")))
    for part in (parts.TEXT_ENCODER, parts.TEXT_ENCODER_2, parts.IMAGE_ENCODER, parts.VAE):
        file = tmp_path / "models" / part.repository / part.folder / f"{part.weights}.safetensors"
        file.rename(file.with_suffix(".fp16.safetensors"))
    components, exact = on_cpu(LocalFolder(tmp_path / "models")), on_cpu(LocalFolder(TINY_FOLDER))
    assert torch.equal(call(components.transformer("f1")), call(exact.transformer("f1")))
    for one, other in zip(encoded(components), encoded(exact), strict=True):
        assert torch.equal(one, other)
    identity = F1.identity_in(place)
    next(place.glob("*00002*")).unlink()
    assert F1.identity_in(place) != identity
    with pytest.raises(ModelFilesError, match=r"fp16-00002-of-00003\.safetensors .* is missing"):
        components.source.folder(F1)


def test_bits_that_were_rounded_once_more_are_not_called_exact(tmp_path):
    weights = {name: weight.half() for name, weight in weights_of(F1, TINY_FOLDER).items()}
    file = write_single(tmp_path / "x.safetensors", F1, weights, TINY_FOLDER)
    assert on_cpu(named(tmp_path, transformer_f1=file)).environment.of_video("f1")["weights"] == "rounded"
    wide = {name: weight.float() for name, weight in weights.items()}
    file = write_single(tmp_path / "x.safetensors", F1, wide, TINY_FOLDER)
    assert on_cpu(named(tmp_path, transformer_f1=file)).environment.of_video("f1")["weights"] == "exact"


def first_names(name, levels):
    """An autoencoder's names in the first code of Stable Diffusion, written from its modules."""
    for ours, first in {
        ".mid_block.attentions.0.group_norm.": ".mid.attn_1.norm.",
        ".mid_block.attentions.0.to_out.0.": ".mid.attn_1.proj_out.",
        ".mid_block.attentions.0.to_": ".mid.attn_1.",
        ".mid_block.resnets.0.": ".mid.block_1.",
        ".mid_block.resnets.1.": ".mid.block_2.",
        ".conv_norm_out.": ".norm_out.",
        ".conv_shortcut.": ".nin_shortcut.",
        ".resnets.": ".block.",
        "samplers.0.": "sample.",
        "encoder.down_blocks.": "encoder.down.",
        **{f"decoder.up_blocks.{n}.": f"decoder.up.{levels - 1 - n}." for n in range(levels)},
    }.items():
        name = name.replace(ours, first)
    return name


@pytest.mark.parametrize("attention", ["", "conv."])
def test_an_autoencoder_by_its_first_names(tmp_path, attention):
    stored = {}
    for name, weight in weights_of(parts.VAE, TINY_FOLDER).items():
        first = first_names(name, 4)
        if ".attn_1." in first and ".norm." not in first:
            owner, _, leaf = first.rpartition(".")
            first = f"{owner}.{attention}{leaf}"
            weight = weight[..., None, None, None] if weight.dim() == 2 else weight
        stored[first] = weight
    assert {"encoder.mid.attn_1.q.weight", "encoder.mid.attn_1.q.conv.weight"} & stored.keys()
    assert "decoder.up.3.block.0.conv1.conv.weight" in stored
    file = write_single(tmp_path / "x.safetensors", parts.VAE, stored, TINY_FOLDER)
    loaded, exact = (
        on_cpu(source)._part(parts.VAE).state_dict() for source in (named(tmp_path, vae=file), LocalFolder(TINY_FOLDER))
    )
    assert loaded.keys() == exact.keys()
    assert all(torch.equal(loaded[name], weight) for name, weight in exact.items())
