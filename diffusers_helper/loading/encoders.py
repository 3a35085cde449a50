"""The encoders as components hand them out, ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import CLIPTextModel, LlamaModel, PreTrainedTokenizerBase, SiglipVisionModel
    from transformers.image_processing_utils import BaseImageProcessor


@dataclass(frozen=True)
class TextEncoders:
    """What turns a prompt into conditions; `device` is where the encoders compute, wherever their weights are kept."""

    text_encoder: LlamaModel
    text_encoder_2: CLIPTextModel
    tokenizer: PreTrainedTokenizerBase
    tokenizer_2: PreTrainedTokenizerBase
    device: torch.device


@dataclass(frozen=True)
class VisionEncoder:
    """What turns the start picture into image features."""

    feature_extractor: BaseImageProcessor
    image_encoder: SiglipVisionModel
