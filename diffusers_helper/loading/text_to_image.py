"""A picture by a text-to-image model of the user's: any folder or repository that diffusers' automatic pipeline takes.

The model is loaded for one picture and gone after it, and nothing else is loaded beside it. Weights are read from
safetensors alone, and code that comes with a model never runs. Its licence and its size are the user's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from diffusers_helper.core.errors import FramePackError, ModelFilesError, SettingsError
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.core.messages import Message
from diffusers_helper.memory import empty_caches
from diffusers_helper.memory.devices import is_shortage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diffusers_helper.loading.components import Components

logger = logging.getLogger(__name__)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_INDEX = "model_index.json"
_REASON_CHARACTERS = 300


def picture_of_text(
    model: str, prompt: str, size: tuple[int, int], seed: int, components: Components, check: Callable[[], None]
) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) that `model` makes of `prompt`.

    Args:
        model: a folder, or a repository on the Hugging Face hub, which is downloaded unless `components` are offline.
        prompt: what it shows.
        size: its height and width; a model may give another one.
        seed: of the generator, which is on the CPU.
        components: say where and in what it computes; all that they have loaded is given up first.
        check: called between the model's layers; may raise.

    Raises SettingsError for what names no model, ModelFilesError for a model that cannot be used, OutOfMemoryError.
    """
    components.release_all()  # the model may be as large as all of them
    try:
        with _told(model, torch.device(components.device)), ExitStack() as stack:
            pipeline = _loaded(model, components)
            for module in filter(_is_module, pipeline.components.values()):
                stack.enter_context(interruptible(module, check))
            generator = torch.Generator("cpu").manual_seed(seed)
            image = pipeline(prompt=prompt, height=size[0], width=size[1], generator=generator).images[0]
            return np.array(image.convert("RGB"))
    finally:
        pipeline = None
        empty_caches()


def _is_module(part: object) -> bool:
    return isinstance(part, nn.Module)


def _loaded(model: str, components: Components) -> Any:
    """Return the pipeline where it computes: where memory is short each of its models is there in turn."""
    is_folder = Path(model).is_dir()
    if not is_folder and not _REPOSITORY.fullmatch(model):
        raise SettingsError(
            Message(
                "--start-from {model}: there is no such folder; give that of a text-to-image model, or its repository.",
                model=model,
            )
        )
    if is_folder and not (Path(model) / _INDEX).is_file():
        raise ModelFilesError(
            Message(
                "{model} holds no text-to-image model: a folder as diffusers saves it has a {file}.",
                model=model,
                file=_INDEX,
            )
        )
    from diffusers import AutoPipelineForText2Image  # which imports every pipeline there is

    pipeline = AutoPipelineForText2Image.from_pretrained(
        model, dtype=components.dtype, use_safetensors=True, local_files_only=is_folder or components.offline
    )
    pipeline.set_progress_bar_config(disable=True)
    if components.device.type == "cuda" and not components.policy.resident:
        pipeline.enable_model_cpu_offload(device=components.device)
        return pipeline
    return pipeline.to(components.device)


@contextmanager
def _told(model: str, device: torch.device) -> Iterator[None]:
    """Make one sentence of whatever a foreign model raises."""
    try:
        yield
    except FramePackError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or is_shortage(error):
            raise
        logger.info("%s on %s", model, device, exc_info=error)
        raise ModelFilesError(_sentence(model, error)) from error


def _sentence(model: str, error: Exception) -> Message:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    unreachable = (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, ConnectionError)
    if not Path(model).is_dir() and any(isinstance(one, unreachable) for one in chain):
        return Message(
            "The text-to-image model {model} is not on this computer and cannot be downloaded: check its name and the "
            "connection, or give a folder.",
            model=model,
        )
    if isinstance(error, ValueError) and "AutoPipeline" in str(error):
        return Message("{model} is no text-to-image model that diffusers knows: choose another one.", model=model)
    return Message(
        "{model} cannot be used as a text-to-image model: {reason}",
        model=model,
        reason=" ".join(str(error).split())[:_REASON_CHARACTERS] or type(error).__name__,
    )
