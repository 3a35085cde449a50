"""Reads the small decoder of previews."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.files import open_regular
from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.headers import read_header
from diffusers_helper.models.preview_decoder import PREFIX, PreviewDecoder

MOST_BYTES = 200_000_000
"""Of the decoder's weights; TAEHV's take 23 MB. A file of another model may have many times more."""


def read_preview_decoder(file: Path) -> PreviewDecoder:
    """Read a safetensors file, of TAEHV or one that `training.run preview` has written.

    Raises ModelFilesError if it is not there, damaged, or of something else.
    """
    try:
        return PreviewDecoder.of_weights(_weights(file))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelFilesError(
            Message(
                "The preview decoder {file} cannot be used, so previews show rough colours alone: {reason}. "
                "It takes a safetensors file of TAEHV for HunyuanVideo.",
                file=file,
                reason=str(error),
            )
        ) from None


def _weights(file: Path) -> dict[str, torch.Tensor]:
    """Return the decoder's weights in `file`; what it says of itself is looked at before they take memory."""
    open_regular(file).close()  # a pipe would be waited for
    own = {name: entry for name, entry in read_header(file).items() if name.startswith(PREFIX)}
    if sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in own.values()) > MOST_BYTES:
        raise ValueError(Message("it is larger than a preview decoder"))
    with safe_open(file, "pt") as opened:
        weights = {name: opened.get_tensor(name) for name in own}
    if not all(weight.is_floating_point() and weight.float().isfinite().all() for weight in weights.values()):
        raise ValueError(Message("it holds NaN, infinity or no numbers"))
    return weights
