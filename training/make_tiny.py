"""Makes a micro model folder for tests: the shipped tiny folder's layout at a still smaller width, with random weights.

`python -m training.make_tiny --output FOLDER` takes a second. The tokenizers are those of assets/tiny; sizes and file
names are the public repositories' in kind: half precision, safetensors, the transformers in shards, one for each
variant. With the same versions of the libraries two runs write the same bytes.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKLHunyuanVideo
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked

TOKENIZERS = Path(__file__).parents[1] / "assets" / "tiny" / "hunyuanvideo-community" / "HunyuanVideo"
LLAMA_WIDTH, CLIP_WIDTH, SIGLIP_WIDTH = 96, 64, 64
IMAGE_SIZE, IMAGE_PATCH = 96, 16

TRANSFORMER = {
    "num_attention_heads": 3,
    "attention_head_dim": 32,
    "rope_axes_dim": (8, 12, 12),
    "num_layers": 2,
    "num_single_layers": 4,
    "num_refiner_layers": 1,
    "text_embed_dim": LLAMA_WIDTH,
    "pooled_projection_dim": CLIP_WIDTH,
    "image_proj_dim": SIGLIP_WIDTH,
    "has_image_proj": True,
    "has_clean_x_embedder": True,
}
TRANSFORMER_SEEDS = {"FramePackI2V_HY": 1, "FramePack_F1_I2V_HY_20250503": 2}
VAE = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2}
DEFAULTS = {
    "title": "Micro, untrained: the pictures are noise",
    "trained": False,
    "resolution": 128,
    "steps": 25,
    "guidance_scale": 10.0,
}


def make_tiny(folder: Path) -> None:
    """Write the whole model folder, over an older one where there is one."""
    hunyuan = folder / "hunyuanvideo-community" / "HunyuanVideo"
    redux = folder / "lllyasviel" / "flux_redux_bfl"

    for name, seed in TRANSFORMER_SEEDS.items():
        with seeded(seed):
            transformer = HunyuanVideoTransformer3DModelPacked(**TRANSFORMER)
        transformer.bfloat16().save_pretrained(folder / "lllyasviel" / name, max_shard_size="2MB")

    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(TOKENIZERS / name, hunyuan / name, dirs_exist_ok=True)
    with seeded(3):
        llama(len(PreTrainedTokenizerFast.from_pretrained(hunyuan / "tokenizer"))).half().save_pretrained(
            hunyuan / "text_encoder"
        )

    with seeded(4):
        clip(len(CLIPTokenizer.from_pretrained(hunyuan / "tokenizer_2"))).half().save_pretrained(
            hunyuan / "text_encoder_2"
        )

    with seeded(5):
        vae().half().save_pretrained(hunyuan / "vae")

    with seeded(6):
        siglip().half().save_pretrained(redux / "image_encoder")
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    SiglipImageProcessorPil(size=size).save_pretrained(redux / "feature_extractor")

    (folder / "framepack.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n", "utf-8")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random weights from a seed of their own inside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def llama(vocab_size: int) -> LlamaModel:
    """A Llama 3 in kind: grouped queries, four layers of which the encoder's state before the last two is used."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=LLAMA_WIDTH,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        initializer_range=0.1,
    )
    return LlamaModel(config)


def clip(vocab_size: int) -> CLIPTextModel:
    """CLIP's text tower; the end mark, whose state is pooled, is the vocabulary's last."""
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=CLIP_WIDTH,
        intermediate_size=128,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
    )
    return CLIPTextModel(config)


def siglip() -> SiglipVisionModel:
    """SigLIP's vision tower: 36 features of a 96 pixel picture."""
    config = SiglipVisionConfig(
        hidden_size=SIGLIP_WIDTH,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=IMAGE_PATCH,
    )
    return SiglipVisionModel(config)


def vae() -> AutoencoderKLHunyuanVideo:
    """The autoencoder; fresh weights give grey pictures and faint latents, so both ends are scaled up."""
    model = AutoencoderKLHunyuanVideo(**VAE)
    with torch.no_grad():
        model.quant_conv.weight.mul_(10)
        model.decoder.conv_out.conv.weight.mul_(1.5)
        model.decoder.conv_out.conv.bias.zero_()
    return model


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    make_tiny(parser.parse_args().output)


if __name__ == "__main__":
    main()
