"""What LoRA files are applied to the transformers of one source, which are loaded and given up."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from diffusers_helper.loading.building import empty_transformer
from diffusers_helper.loading.weights import read_again
from diffusers_helper.lora.applying import Adaptation
from diffusers_helper.lora.names import ModuleNames
from diffusers_helper.model_files import Part
from diffusers_helper.model_files.shards import Shards
from diffusers_helper.model_files.weight_files import weight_files
from diffusers_helper.models.kernels import Kernels

Identity = list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A transformer, and the files that its weights are from: where, and what tells them from others."""

    adaptation: Adaptation
    folder: Path
    identity: Identity


class Adapting:
    """What is applied to which transformer.

    Args:
        device: where transformers run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: dict[str, ModuleNames] = {}
        self._loaded: dict[str, _Loaded] = {}

    def begin(self, part: Part, folder: Path, model: nn.Module, kernels: Kernels) -> None:
        """Know `model`, which was loaded as `part` from `folder`."""

        def again(names: Collection[str]) -> None:
            read_again(model, names, Shards(weight_files(part, folder)))

        adaptation = Adaptation(model, self._device, kernels, again)
        self._loaded[part.name] = _Loaded(adaptation, folder, part.identity_in(folder))

    def names(self, part: Part, folder: Path | None) -> ModuleNames:
        """Return the modules of the transformer that is loaded as `part`, or is in `folder` and not read yet."""
        if folder is not None:
            return ModuleNames(empty_transformer(part, folder))
        if part.name not in self._names:
            self._names[part.name] = ModuleNames(self.of(part).model)
        return self._names[part.name]

    def of(self, part: Part) -> Adaptation:
        """Return what is applied to the transformer that is loaded."""
        return self._loaded[part.name].adaptation

    def is_stale(self, part: Part) -> bool:
        """Whether the weights that a transformer had before its LoRA files are no longer in the model's files."""
        found = self._loaded.get(part.name)
        return found is not None and bool(found.adaptation.merged) and found.identity != part.identity_in(found.folder)

    def forget(self, name: str) -> None:
        """Let go of a transformer."""
        self._loaded.pop(name, None)
        self._names.pop(name, None)
