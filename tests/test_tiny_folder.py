"""The shipped model folder: complete, small, in the public layout, and usable from its files alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.encoders.hunyuan import encode_prompt_conds, vae_decode, vae_encode
from diffusers_helper.encoders.vision import hf_clip_vision_encode
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from tests.tiny import SHIPPED, TINY, hunyuan_of, redux_of, tiny_text, tiny_vae, tiny_vision

MAX_BYTES = 48_000_000
TRANSFORMER = SHIPPED / VARIANTS["original"].checkpoint
HUNYUAN, REDUX = hunyuan_of(SHIPPED), redux_of(SHIPPED)
FILES = sorted(path for path in SHIPPED.rglob("*") if path.is_file())
WEIGHTS = [path for path in FILES if path.suffix == ".safetensors"]


def load_transformer(folder):
    model = HunyuanVideoTransformer3DModelPacked.from_pretrained(folder, torch_dtype=torch.float32)
    return model.eval()


def read_json(path):
    return json.loads(path.read_text("utf-8"))


def test_it_is_small_enough_for_a_repository():
    assert 1_000_000 < sum(path.stat().st_size for path in FILES) <= MAX_BYTES


def test_it_holds_nothing_but_weights_tokenizers_configurations_and_a_preview():
    assert {path.suffix for path in FILES} == {".json", ".safetensors", ".txt", ".webp"}
    assert [path.parent.name for path in FILES if path.suffix == ".webp"] == ["loras"], "a preview"
    assert not any(path.is_symlink() for path in FILES)


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (TRANSFORMER / "config.json", "_class_name", "HunyuanVideoTransformer3DModelPacked"),
        (HUNYUAN / "vae" / "config.json", "_class_name", "AutoencoderKLHunyuanVideo"),
        (HUNYUAN / "vae" / "config.json", "scaling_factor", 0.476986),
        (HUNYUAN / "text_encoder" / "config.json", "architectures", ["LlamaModel"]),
        (HUNYUAN / "text_encoder_2" / "config.json", "architectures", ["CLIPTextModel"]),
        (HUNYUAN / "tokenizer" / "tokenizer_config.json", "tokenizer_class", "LlamaTokenizerFast"),
        (HUNYUAN / "tokenizer_2" / "tokenizer_config.json", "tokenizer_class", "CLIPTokenizer"),
        (REDUX / "image_encoder" / "config.json", "architectures", ["SiglipVisionModel"]),
        (REDUX / "feature_extractor" / "preprocessor_config.json", "image_processor_type", "SiglipImageProcessor"),
    ],
)
def test_every_configuration_says_what_the_public_one_says(config, key, value):
    assert read_json(config)[key] == value


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: str(path.relative_to(SHIPPED)))
def test_weights_are_in_the_half_precision_of_the_public_ones_and_finite(path):
    expected = torch.bfloat16 if path.parent == TRANSFORMER else torch.float16
    weights = load_file(path)
    assert {weight.dtype for weight in weights.values()} == {expected}
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_the_transformer_s_index_and_shards_agree():
    folder = TRANSFORMER
    index = read_json(folder / "diffusion_pytorch_model.safetensors.index.json")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert [shard.name for shard in shards] == [
        f"diffusion_pytorch_model-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))
    ]
    held = {}
    for shard in shards:
        with safe_open(shard, "pt") as weights:
            held |= dict.fromkeys(weights.keys(), shard.name)
    assert held == index["weight_map"]
    assert set(held) == set(load_transformer(folder).state_dict())


def test_one_transformer_serves_both_variants():
    LocalFolder(SHIPPED).check(list(VARIANTS))
    assert not (SHIPPED / VARIANTS["f1"].checkpoint).exists()


def test_its_defaults_are_settings_that_a_request_takes():
    defaults = read_json(SHIPPED / "framepack.json")
    assert defaults.pop("trained")
    assert "Tiny" in defaults.pop("title")
    assert set(defaults.pop("step_ratios")) == set(VARIANTS)
    del defaults["same_files"]
    request = GenerationRequest.from_fields(defaults)
    assert {field: getattr(request, field) for field in ("resolution", "steps", "guidance_scale")} == defaults


@pytest.mark.parametrize("text", ["The girl dances.\n\n {0} %s", "🙂 שלום עולם 日本語", "a\tb", ""])
def test_the_llama_tokenizer_gives_any_text_back(text):
    tokenizer = tiny_text(SHIPPED).tokenizer
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["the girl dances", "🙂 שלום עולם 日本語 ñ"])
def test_the_clip_tokenizer_knows_every_byte_and_marks_the_end_once(text):
    tokenizer = tiny_text(SHIPPED).tokenizer_2
    ids = tokenizer(text).input_ids
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_prompts_give_states_of_a_natural_spread_that_differ():
    first = encode_prompt_conds("The girl dances.", *tiny_text(SHIPPED))
    second = encode_prompt_conds("The lion walks.", *tiny_text(SHIPPED))
    assert first[0].shape[2] == tiny_text(SHIPPED).text_encoder.config.hidden_size
    assert first[1].shape == (1, tiny_text(SHIPPED).text_encoder_2.config.hidden_size)
    for one, other in zip(first, second, strict=True):
        length = min(one.shape[1], other.shape[1])
        assert 0.2 < one.std() < 5
        assert (one[:, :length] - other[:, :length]).std() > 0.05


@pytest.mark.slow
def test_the_whole_chain_of_models_fits_together_and_stays_tame():
    """Photo and prompt to latents, one transformer call as a section makes it, and pixels."""
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    vae = tiny_vae(SHIPPED)
    start = vae_encode(pixels, vae, torch.Generator().manual_seed(0))
    assert start.shape == (1, 16, 1, 16, 16)
    assert 0.3 < start.std() < 3

    llama, pooled = encode_prompt_conds("The girl dances.", *tiny_text(SHIPPED))
    seen = hf_clip_vision_encode(image, *tiny_vision(SHIPPED)).last_hidden_state
    vision = tiny_vision(SHIPPED)[1].config
    assert seen.shape == (1, (vision.image_size // vision.patch_size) ** 2, vision.hidden_size)

    indices = torch.arange(29)[None]
    with torch.no_grad():
        flow = load_transformer(TRANSFORMER)(
            hidden_states=torch.randn(1, 16, 9, 16, 16),
            timestep=torch.tensor([900.0]),
            encoder_hidden_states=llama,
            encoder_attention_mask=torch.ones(llama.shape[:2], dtype=torch.bool),
            pooled_projections=pooled,
            guidance=torch.tensor([10000.0]),
            latent_indices=indices[:, 1:10],
            clean_latents=torch.cat([start, start], dim=2),
            clean_latent_indices=indices[:, [0, 10]],
            clean_latents_2x=torch.zeros(1, 16, 2, 16, 16),
            clean_latent_2x_indices=indices[:, 11:13],
            clean_latents_4x=torch.zeros(1, 16, 16, 16, 16),
            clean_latent_4x_indices=indices[:, 13:29],
            image_embeddings=seen,
            return_dict=False,
        )[0]
    assert flow.shape == (1, 16, 9, 16, 16)
    assert 0.1 < flow.std() < 3

    video = vae_decode(torch.randn(1, 16, 9, 16, 16), vae)
    assert video.shape == (1, 3, 33, 128, 128)
    assert abs(video.mean()) < 0.5
    assert 0.1 < video.std() < 1


@pytest.mark.slow
@pytest.mark.slow
def test_the_micro_folder_for_tests_has_the_same_files_every_time(tmp_path):
    """Another process, whose sets are in another order, writes what this one wrote."""
    command = [sys.executable, "-m", "training.make_tiny", "--output", str(tmp_path)]
    environment = os.environ | {"PYTHONHASHSEED": "42"}
    done = subprocess.run(command, cwd=SHIPPED.parents[1], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (TINY, tmp_path)
    )
    assert len(first) > 20
    assert [name for name in first | second if first.get(name) != second.get(name)] == []
