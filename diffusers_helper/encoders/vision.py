"""SigLIP: what the start picture shows, as features for the transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import SiglipVisionModel
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.modeling_outputs import BaseModelOutputWithPooling


@torch.no_grad()
def hf_clip_vision_encode(
    image: np.ndarray, feature_extractor: BaseImageProcessor, image_encoder: SiglipVisionModel
) -> BaseModelOutputWithPooling:
    """Encode one picture.

    Args:
        image: (H, W, 3) uint8, already resized and cropped to its bucket.
        feature_extractor: the checkpoint's image processor; scales to the encoder's own size and range.
        image_encoder: computes on its own device in its own dtype.

    Returns:
        The model's output; `.last_hidden_state` is (1, 729, 1152) with so400m at 384 pixels.

    Raises ValueError for an array of another kind: floats would silently be rescaled once more.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"The picture must be (H, W, 3) uint8, not {image.shape} {image.dtype}.")
    inputs = feature_extractor(images=image, return_tensors="pt", input_data_format="channels_last")
    seen: BaseModelOutputWithPooling = image_encoder(inputs.pixel_values.to(image_encoder.device))
    return seen
