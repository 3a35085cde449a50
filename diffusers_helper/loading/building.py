"""From a part's files to a module: the class is the library's, reading its weights is `weights`' concern.

diffusers and transformers are imported with the first part, so that a page can open before.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusers_helper.core.errors import FramePackError, ModelFilesError, OutOfMemoryError
from diffusers_helper.core.messages import Message
from diffusers_helper.loading.fp8_files import converted
from diffusers_helper.loading.stored import keep_stored_forms
from diffusers_helper.loading.weights import Place, bytes_of, load_weights
from diffusers_helper.memory import cpu, out_of_memory_as_error
from diffusers_helper.memory.packing import blocks_of
from diffusers_helper.model_files import Part, parts
from diffusers_helper.model_files.shards import Shards
from diffusers_helper.model_files.source import OnProgress
from diffusers_helper.model_files.vae_names import with_published_names
from diffusers_helper.model_files.weight_files import weight_files
from diffusers_helper.models.fp8 import hold_bytes, with_fp8

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
_OURS = ("diffusers_helper.models.hunyuan_video_packed", "HunyuanVideoTransformer3DModelPacked")


def build(
    part: Part, folder: Path, dtype: torch.dtype, place: Place, on_progress: OnProgress, fp8: Path | None = None
) -> Any:
    """The module or tokenizer in `folder`, ready for inference; only a large model's weights go to `place`.

    `on_progress` gets what is being done to a large model, and the bytes of it that are done and in all. `fp8` is the
    file of a transformer's 8-bit weights, made where it is not there; None is the exact weights.
    Raises ModelFilesError for files that cannot be used as `part`, and OutOfMemoryError.
    """
    with _loading_errors(part, folder):
        if part.weights:
            return _load_model(part, folder, dtype, place, on_progress, fp8)
        loaded = _class_of(part).from_pretrained(folder, local_files_only=True)
        if part is parts.TOKENIZER:
            _require_begin(loaded)
        return loaded


def _load_model(
    part: Part, folder: Path, dtype: torch.dtype, place: Place, on_progress: OnProgress, fp8: Path | None
) -> nn.Module:
    model, files = _empty(part, part.config_file(folder)), weight_files(part, folder)
    if not part.in_blocks:
        shards = Shards(files)
        if part is parts.VAE:
            shards.tensors = with_published_names(shards.tensors)
        return load_weights(model, shards, dtype, Place(cpu))
    if fp8 is not None:
        layers = with_fp8(model, blocks_of(model))
        report = partial(on_progress, Message("Converting {title} to 8 bits, once", title=part.title))
        files.append(converted(Shards(files), layers, fp8, report))
    shards = Shards(files)
    if place.as_stored or place.as_bytes:
        keep_stored_forms(model, shards, of_gguf=place.as_stored)
    if place.as_bytes:
        hold_bytes(model)
    _require_ram(part, bytes_of(model, dtype), place)
    report = partial(on_progress, Message("Loading {title}", title=part.title))
    return load_weights(model, shards, dtype, place, report)


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
    """Width of a transformer's attention heads, by its configuration; raises ModelFilesError if that does not say."""
    with _loading_errors(part, folder):
        return int(json.loads(part.config_file(folder).read_bytes())["attention_head_dim"])


def empty_transformer(part: Part, folder: Path) -> nn.Module:
    """Return the transformer `part` of the configuration in `folder`, without memory for weights."""
    return _empty(part, part.config_file(folder))


def _class_of(part: Part) -> Any:
    library, name = _OURS if part.is_transformer else _CLASSES[part.name]
    return getattr(importlib.import_module(library), name)


def _empty(part: Part, config_file: Path) -> nn.Module:
    """The model without memory for its weights; what is computed and in no file is there."""
    model_class, content = _class_of(part), json.loads(config_file.read_bytes())
    is_ours = "_class_name" in content  # as diffusers writes it, and we; transformers have a class for it
    config = content if is_ours else model_class.config_class.from_dict(content)
    with torch.device("meta"):
        model: nn.Module = model_class.from_config(config) if is_ours else model_class(config)
    for module in model.modules():
        if (positions := module._buffers.get("position_ids")) is not None:
            module._buffers["position_ids"] = torch.arange(positions.shape[-1])[None]
    if hasattr(model, "rotary_emb"):
        model.rotary_emb = type(model.rotary_emb)(config)
    return model


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
