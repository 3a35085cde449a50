"""The choices that shape the numbers of a video, besides its request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from diffusers_helper.loading.embedding_cache import key_of
from diffusers_helper.model_files import Part
from diffusers_helper.model_files.contents import quantised_as
from diffusers_helper.models.dtypes import half_precision


@dataclass(frozen=True)
class ComputeOptions:
    """How the models compute.

    Attributes:
        dtype: of all of them; None is bfloat16 for the transformer (float16 on cards that are older) and float16 for
            the rest, on a CPU float32 for all.
        attention: name of the transformer's attention backend.
        fused: compile kernels for the device where that works.
        fp8: folder of transformers' weights in 8 bits, which are made there where needed: an approximation in
            half the RAM. None uses the exact ones.
        linears: what the transformer's linear layers multiply where a video says nothing else; see
            `models.eight_bit.NAMES`.
        stagger: how many steps the sections that one reads are ahead of it; None for one section after the other.
        gpus: how many share a sequence.
    """

    dtype: torch.dtype | None = None
    attention: str = "auto"
    fused: bool = True
    fp8: Path | None = None
    linears: str = "exact"
    stagger: int | None = None
    gpus: int = 1

    def dtype_on(self, device: torch.device, *, transformer: bool) -> torch.dtype:
        """Return the dtype of the transformer on `device`, or that of the other models."""
        if device.type == "cpu":
            return self.dtype or torch.float32
        return self.dtype or (half_precision(device) if transformer else torch.float16)

    def fp8_file(self, part: Part, folder: Path) -> Path | None:
        """Return where the 8-bit weights of the transformer in `folder` are; None where its own are used.

        Those that are quantised already are: rounded twice, they would only be worse.
        """
        if self.fp8 is None or not part.is_transformer or quantised_as(part, folder):
            return None
        return self.fp8 / f"{part.name}-{key_of('eight bits', part.identity_in(folder))[:16]}.safetensors"
