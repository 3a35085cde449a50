"""From a part's files to a module: the two large models block by block (`loading`), the rest by their libraries.

diffusers and transformers are imported with the first part, so that a page can open before.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusers_helper.core.errors import FramePackError, ModelFilesError, OutOfMemoryError
from diffusers_helper.core.messages import Message
from diffusers_helper.loading.fp8_files import converted
from diffusers_helper.loading.weights import Place, bytes_of, lacking, load_weights
from diffusers_helper.memory import out_of_memory_as_error
from diffusers_helper.memory.packing import blocks_of
from diffusers_helper.model_files import Part, parts
from diffusers_helper.model_files.check import weight_files
from diffusers_helper.model_files.shards import Shards
from diffusers_helper.model_files.source import OnProgress
from diffusers_helper.models.fp8 import with_fp8

_CLASSES = {
    parts.TEXT_ENCODER.name: ("transformers", "LlamaModel"),
    # Takes tokenizer.json as it is; LlamaTokenizer, which folders name, would split words as Llama 2 did.
    parts.TOKENIZER.name: ("transformers", "PreTrainedTokenizerFast"),
    parts.TEXT_ENCODER_2.name: ("transformers", "CLIPTextModel"),
    parts.TOKENIZER_2.name: ("transformers", "CLIPTokenizer"),
    parts.VAE.name: ("diffusers", "AutoencoderKLHunyuanVideo"),
    parts.IMAGE_ENCODER.name: ("transformers", "SiglipVisionModel"),
    # The one that needs no torchvision.
    parts.FEATURE_EXTRACTOR.name: ("transformers", "SiglipImageProcessorPil"),
}
"""The library and class of each part; transformers are ours."""


def build(
    part: Part, folder: Path, dtype: torch.dtype, place: Place, on_progress: OnProgress, fp8: Path | None = None
) -> Any:
    """The module or tokenizer in `folder`, ready for inference; only a large model's weights go to `place`.

    `on_progress` gets what is being done to a large model, and the bytes of it that are done and in all. `fp8` is the
    file of a transformer's 8-bit weights, made where it is not there; None is the exact weights.
    Raises ModelFilesError for files that cannot be used as `part`, and OutOfMemoryError.
    """
    with _loading_errors(part, folder):
        empty = _EMPTY.get(part.name) or (empty_transformer if part.is_transformer else None)
        if empty is not None:
            model, files = empty(folder), weight_files(part, folder)
            if fp8 is not None:
                layers = with_fp8(model, blocks_of(model))
                report = partial(on_progress, Message("Converting {title} to 8 bits, once", title=part.title))
                files.append(converted(Shards(files), layers, fp8, report))
            _require_ram(part, bytes_of(model, dtype), place)
            report = partial(on_progress, Message("Loading {title}", title=part.title))
            return load_weights(model, Shards(files), dtype, place, report)
        library, name = _CLASSES[part.name]
        part_class = getattr(importlib.import_module(library), name)
        if part.weights:
            return _load_small(part_class, folder, dtype)
        loaded = part_class.from_pretrained(folder, local_files_only=True)
        if part is parts.TOKENIZER:
            _require_begin(loaded)
        return loaded


def _require_begin(tokenizer: Any) -> None:
    """Raise ValueError unless texts begin with the token that Llama was trained to begin with.

    Without it nothing fails: every video is only worse. It is not added here, since a tokenizer that lacks it was
    written by another program and may differ elsewhere, too, and the published one has 17 MB.
    """
    ids = tokenizer("a").input_ids
    if tokenizer.bos_token_id is None or ids[:1] != [tokenizer.bos_token_id]:
        raise ValueError(Message("its texts do not begin with the token that begins a text."))


def _require_ram(part: Part, need: int, place: Place) -> None:
    if place.device.type == "cpu" and not place.stream and need > place.ram:
        raise OutOfMemoryError(
            Message(
                "{title} takes {need:.1f} GB of RAM, and {free:.1f} GB are free, swap included. Close other programs, "
                "add swap, or use a smaller model.",
                title=part.title,
                need=need / 1e9,
                free=place.ram / 1e9,
            )
        )


def attention_head_dim(part: Part, folder: Path) -> int:
    """Width of a transformer's attention heads, by its config.json; raises ModelFilesError if that does not say."""
    with _loading_errors(part, folder):
        return int(json.loads((folder / part.config).read_bytes())["attention_head_dim"])


def empty_transformer(folder: Path) -> nn.Module:
    """Return the transformer of the configuration in `folder`, without memory for weights."""
    from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked as Transformer

    with torch.device("meta"):
        model: nn.Module = Transformer.from_config(Transformer.load_config(folder, local_files_only=True))
    return model


def _empty_llama(folder: Path) -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = LlamaModel(config)
    model.rotary_emb = type(model.rotary_emb)(config)  # its numbers are computed, not stored
    return model


_EMPTY: dict[str, Callable[[Path], nn.Module]] = {parts.TEXT_ENCODER.name: _empty_llama}


def _load_small(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A model on the CPU; raises ModelFilesError when the files lack some of its weights."""
    model, info = model_class.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise lacking(folder, missing)
    modules = {name for name, _ in model.named_children()}
    for name in sorted(info["unexpected_keys"]):
        if name.partition(".")[0] in modules:  # others are modules beside it, which are not used here
            raise ValueError(f"it holds {name}, for which the model has no place.")
    for name, *_shapes in info["mismatched_keys"]:  # the library would draw it at random
        raise ValueError(f"{name} has another shape than its configuration says.")
    return model.eval().requires_grad_(False)


@contextmanager
def _loading_errors(part: Part, folder: Path) -> Iterator[None]:
    try:
        with out_of_memory_as_error():
            yield
    except (FramePackError, AssertionError):
        raise
    except Exception as error:  # the libraries let through whatever a file leads them to, plain Exception included
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelFilesError(
            Message(
                "{folder} could not be loaded as {title}: {reason} Replace it with the files of {repository}.",
                folder=folder,
                title=part.title,
                reason=reason,
                repository=part.repository,
            )
        ) from error
