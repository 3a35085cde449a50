"""What a user should know of a transformer's weights."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from diffusers_helper.core.messages import Message
from diffusers_helper.loading.weights import bytes_in_files
from diffusers_helper.model_files.contents import FP8


def weight_notes(transformer: nn.Module, form: str, *, refused: bool = False) -> Iterator[str]:
    """Say how the weights of `transformer` differ from the published ones, and which do not fit in RAM.

    `form` is what most of them are quantised as in its files; "" for weights that are not. `refused` says that they
    were to be in RAM once for several processes, and are not.
    """
    if form == FP8:
        yield Message(
            "The transformer's files have 8-bit weights (fp8): the pictures differ a little from those of the "
            "published weights."
        )
    elif form:
        yield Message(
            "The transformer's weights are quantised ({form}): the pictures differ from the published ones'.",
            form=form,
        )
    if left := bytes_in_files(transformer):
        yield Message(
            "{size:.1f} GB of the transformer's weights do not fit in RAM: they are read from the disk in every "
            "step, which is slower. Close other programs, or start with --weights fp8.",
            size=left / 1e9,
        )
    if refused:
        yield Message(
            "The GPUs' processes cannot share the transformer's weights in RAM here, so each has a copy of its own: "
            "with little RAM, start with --weights fp8 or fewer GPUs. The log says why."
        )
