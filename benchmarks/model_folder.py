"""A model folder of the published layout and full size with random weights: 42 GB, once."""

import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLHunyuanVideo
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from benchmarks.common import with_random_weights
from benchmarks.loading import FULL, write_shards, write_weights
from diffusers_helper.model_files import parts
from diffusers_helper.model_files.source import TINY_FOLDER

LLAMA = LlamaConfig(
    vocab_size=128320,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
)
CLIP = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, eos_token_id=2)
SIGLIP = SiglipVisionConfig(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=27,
    num_attention_heads=16,
    image_size=378,
    patch_size=14,
)


def write_folder(folder: Path, variant: str) -> None:
    """Write all parts that `variant` needs, those first that may be large; nothing if they are there.

    Tokenizers are the tiny model's: their ids fit.
    """
    done = folder / "complete"
    if done.exists():
        return
    write_shards(_place(folder, parts.transformer_part(variant)), FULL)
    with torch.device("meta"):
        llama = LlamaModel(LLAMA)
    place = _place(folder, parts.TEXT_ENCODER)
    llama.config.architectures = ["LlamaModel"]
    llama.config.save_pretrained(place)
    write_weights(place, llama, parts.TEXT_ENCODER.weights, torch.float16)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for part, make in {
        parts.TEXT_ENCODER_2: lambda: CLIPTextModel(CLIP),
        parts.IMAGE_ENCODER: lambda: SiglipVisionModel(SIGLIP),
        parts.VAE: AutoencoderKLHunyuanVideo,
    }.items():
        with_random_weights(make, device, torch.float16).save_pretrained(_place(folder, part))
    for part in (parts.TOKENIZER, parts.TOKENIZER_2, parts.FEATURE_EXTRACTOR):
        shutil.copytree(_place(TINY_FOLDER, part), _place(folder, part), dirs_exist_ok=True)
    done.touch()


def _place(folder: Path, part: parts.Part) -> Path:
    place = folder / part.repository / part.folder
    place.mkdir(parents=True, exist_ok=True)
    return place


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), sys.argv[2])
