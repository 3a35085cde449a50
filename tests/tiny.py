"""A micro model folder with random weights, made anew, and its parts, loaded as the product loads them.

It is there as soon as the first test runs. It has the layout of the shipped assets/tiny (`SHIPPED`), both variants'
transformers and a fifth of the work, of its decoder a tenth.
"""

import atexit
import tempfile
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

from training.make_tiny import make_tiny

SHIPPED = Path(__file__).parents[1] / "assets" / "tiny"
_folder = tempfile.TemporaryDirectory(prefix="framepack-micro-")
atexit.register(_folder.cleanup)
TINY = TINY_FOLDER = Path(_folder.name)
"""Empty until the session's fixture in conftest.py has called `fill`."""


def fill() -> None:
    """Make the model."""
    make_tiny(TINY)


class TinyText(NamedTuple):
    text_encoder: LlamaModel
    text_encoder_2: CLIPTextModel
    tokenizer: PreTrainedTokenizerFast
    tokenizer_2: CLIPTokenizer


def hunyuan_of(folder: Path) -> Path:
    return folder / "hunyuanvideo-community" / "HunyuanVideo"


def redux_of(folder: Path) -> Path:
    return folder / "lllyasviel" / "flux_redux_bfl"


@cache
@torch.inference_mode(False)
def tiny_text(folder: Path = TINY) -> TinyText:
    parts = hunyuan_of(folder)
    return TinyText(
        LlamaModel.from_pretrained(parts / "text_encoder", dtype=torch.float32),
        CLIPTextModel.from_pretrained(parts / "text_encoder_2", dtype=torch.float32),
        PreTrainedTokenizerFast.from_pretrained(parts / "tokenizer"),
        CLIPTokenizer.from_pretrained(parts / "tokenizer_2"),
    )


@cache
@torch.inference_mode(False)
def tiny_vision(folder: Path = TINY) -> tuple[SiglipImageProcessorPil, SiglipVisionModel]:
    return (
        SiglipImageProcessorPil.from_pretrained(redux_of(folder) / "feature_extractor"),
        SiglipVisionModel.from_pretrained(redux_of(folder) / "image_encoder", dtype=torch.float32),
    )


@cache
@torch.inference_mode(False)
def tiny_vae(folder: Path = TINY) -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo.from_pretrained(hunyuan_of(folder) / "vae", torch_dtype=torch.float32).eval()
