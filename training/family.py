"""The sizes of every part of the small model, and where each lies in a model folder.

The classes are those of the published model; only the widths differ. They are chosen for a CPU of two cores (a section
of 1.2 s in some ten seconds) and for 48 MB of half-precision weights in all.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKLHunyuanVideo
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked

ORIGINAL_FOLDER = "lllyasviel/FramePackI2V_HY"
F1_FOLDER = "lllyasviel/FramePack_F1_I2V_HY_20250503"
HUNYUAN_FOLDER = "hunyuanvideo-community/HunyuanVideo"
REDUX_FOLDER = "lllyasviel/flux_redux_bfl"

LLAMA_WIDTH, CLIP_WIDTH, SIGLIP_WIDTH = 128, 128, 64
IMAGE_SIZE, IMAGE_PATCH = 64, 16

TRANSFORMER = {
    "num_attention_heads": 8,
    "attention_head_dim": 32,
    "rope_axes_dim": (8, 12, 12),
    "num_layers": 2,
    "num_single_layers": 7,
    "num_refiner_layers": 1,
    "mlp_ratio": 3.0,
    "text_embed_dim": LLAMA_WIDTH,
    "pooled_projection_dim": CLIP_WIDTH,
    "image_proj_dim": SIGLIP_WIDTH,
    "has_image_proj": True,
    "has_clean_x_embedder": True,
}
VAE = {
    "block_out_channels": (16, 32, 64, 96),
    "layers_per_block": 1,
    "norm_num_groups": 1,
    "mid_block_add_attention": False,
}


def build_transformer(**sizes: Any) -> HunyuanVideoTransformer3DModelPacked:
    """The packed transformer, about 13 million parameters; `sizes` in place of its own make another one."""
    return HunyuanVideoTransformer3DModelPacked(**TRANSFORMER | sizes)


def build_vae() -> AutoencoderKLHunyuanVideo:
    """The autoencoder, about 5 million parameters."""
    return AutoencoderKLHunyuanVideo(**VAE)


def build_llama(vocab_size: int) -> LlamaModel:
    """A Llama 3 in kind: grouped queries, four layers of which the state before the last two is used."""
    return LlamaModel(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=LLAMA_WIDTH,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            rope_theta=10000.0,
            initializer_range=0.05,
        )
    )


def build_clip(vocab_size: int) -> CLIPTextModel:
    """CLIP's text tower; the end mark, whose state is pooled, is the vocabulary's last."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=CLIP_WIDTH,
            intermediate_size=256,
            projection_dim=CLIP_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
            pad_token_id=vocab_size - 1,
        )
    )


def build_siglip() -> SiglipVisionModel:
    """SigLIP's vision tower: 16 features of a 64 pixel picture."""
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=SIGLIP_WIDTH,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=IMAGE_PATCH,
        )
    )
