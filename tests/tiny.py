"""The parts of assets/tiny, loaded from their files as the product loads them."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLHunyuanVideo
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionModel,
)

TINY = Path(__file__).parents[1] / "assets" / "tiny"
HUNYUAN = TINY / "hunyuanvideo-community" / "HunyuanVideo"
REDUX = TINY / "lllyasviel" / "flux_redux_bfl"


class TinyText(NamedTuple):
    text_encoder: LlamaModel
    text_encoder_2: CLIPTextModel
    tokenizer: PreTrainedTokenizerFast
    tokenizer_2: CLIPTokenizer


@cache
def tiny_text() -> TinyText:
    return TinyText(
        LlamaModel.from_pretrained(HUNYUAN / "text_encoder", dtype=torch.float32),
        CLIPTextModel.from_pretrained(HUNYUAN / "text_encoder_2", dtype=torch.float32),
        PreTrainedTokenizerFast.from_pretrained(HUNYUAN / "tokenizer"),
        CLIPTokenizer.from_pretrained(HUNYUAN / "tokenizer_2"),
    )


@cache
def tiny_vision() -> tuple[SiglipImageProcessorPil, SiglipVisionModel]:
    return (
        SiglipImageProcessorPil.from_pretrained(REDUX / "feature_extractor"),
        SiglipVisionModel.from_pretrained(REDUX / "image_encoder", dtype=torch.float32),
    )


@cache
def tiny_vae() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo.from_pretrained(HUNYUAN / "vae", torch_dtype=torch.float32).eval()
