"""A model folder of the published layout with random weights: 42 GB at full size, once.

`python -m benchmarks.model_folder DIR VARIANT` writes it.
"""

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from diffusers_helper.model_files.choice import TINY_FOLDER


@dataclass(frozen=True)
class Sizes:
    """Fields of each part's config; the published ones."""

    transformer: dict[str, Any] = field(default_factory=lambda: FULL)
    llama: dict[str, Any] = field(
        default_factory=lambda: {
            "vocab_size": 128320,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
        }
    )
    clip: dict[str, Any] = field(
        default_factory=lambda: {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    )
    siglip: dict[str, Any] = field(
        default_factory=lambda: {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        }
    )
    vae: dict[str, Any] = field(default_factory=dict)


def write_folder(folder: Path, variant: str, sizes: Sizes | None = None) -> None:
    """Write all parts that `variant` needs; nothing if they are there.

    Tokenizers are the tiny model's: their ids fit.
    """
    done, sizes = folder / "complete", sizes or Sizes()
    if done.exists():
        return
    write_shards(_place(folder, parts.transformer_part(variant)), sizes.transformer)
    with torch.device("meta"):
        llama = LlamaModel(LlamaConfig(**sizes.llama))
    place = _place(folder, parts.TEXT_ENCODER)
    llama.config.architectures = ["LlamaModel"]
    llama.config.save_pretrained(place)
    write_weights(place, llama, parts.TEXT_ENCODER.weights, torch.float16)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for part, make in {
        parts.TEXT_ENCODER_2: lambda: CLIPTextModel(CLIPTextConfig(**sizes.clip, eos_token_id=2)),
        parts.IMAGE_ENCODER: lambda: SiglipVisionModel(SiglipVisionConfig(**sizes.siglip)),
        parts.VAE: lambda: AutoencoderKLHunyuanVideo(**sizes.vae),
    }.items():
        model: Any = with_random_weights(make, device, torch.float16)
        model.save_pretrained(_place(folder, part))
    for part in (parts.TOKENIZER, parts.TOKENIZER_2, parts.FEATURE_EXTRACTOR):
        shutil.copytree(_place(TINY_FOLDER, part), _place(folder, part), dirs_exist_ok=True)
    file = _place(folder, parts.FEATURE_EXTRACTOR) / "preprocessor_config.json"
    side = sizes.siglip["image_size"]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"height": side, "width": side}}))
    done.touch()


def _place(folder: Path, part: parts.Part) -> Path:
    place = folder / part.repository / part.folder
    place.mkdir(parents=True, exist_ok=True)
    return place


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), sys.argv[2])
