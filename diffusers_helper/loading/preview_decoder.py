"""Reads the small decoder of previews."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.messages import Message
from diffusers_helper.models.preview_decoder import PreviewDecoder


def read_preview_decoder(file: Path) -> PreviewDecoder:
    """Read a safetensors file, of TAEHV or one that `training.run preview` has written.

    Raises ModelFilesError if it is not there, or of something else.
    """
    try:
        return PreviewDecoder.of_weights(load_file(file))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelFilesError(
            Message(
                "The preview decoder {file} cannot be used, so previews show rough colours alone: {reason}. "
                "It takes a safetensors file of TAEHV for HunyuanVideo.",
                file=file,
                reason=str(error),
            )
        ) from None
