"""What LoRA files are applied to the transformers of one source, which are loaded and given up."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from diffusers_helper.loading.building import empty_transformer
from diffusers_helper.loading.weights import read_again
from diffusers_helper.lora.applying import Adaptation, Loras
from diffusers_helper.lora.names import ModuleNames
from diffusers_helper.model_files import Part
from diffusers_helper.model_files.check import weight_files
from diffusers_helper.model_files.shards import Shards

Identity = list[tuple[str, str]]


class Adapting:
    """What is applied to which transformer.

    Args:
        device: where transformers run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: dict[Path, ModuleNames] = {}
        self._adaptations: dict[str, tuple[Adaptation, Identity]] = {}

    def names(self, folder: Path) -> ModuleNames:
        """Return the modules of the transformer in `folder`, whose weights are not read."""
        if folder not in self._names:
            self._names[folder] = ModuleNames(empty_transformer(folder))
        return self._names[folder]

    def apply(self, loras: Loras, part: Part, folder: Path, model: nn.Module, *, merge: bool) -> None:
        """Change `model`, loaded as `part` from `folder`, by these files instead of the former ones; see Adaptation."""

        def again(names: Collection[str]) -> None:
            read_again(model, names, Shards(weight_files(part, folder)))

        if part.name not in self._adaptations:
            self._adaptations[part.name] = Adaptation(model, self._device, again), part.identity_in(folder)
        self._adaptations[part.name][0].apply(loras, merge=merge)

    def of(self, part: Part) -> Adaptation:
        """Return what is applied to the transformer that is loaded."""
        return self._adaptations[part.name][0]

    def is_stale(self, part: Part, folder: Path) -> bool:
        """Whether the weights that a transformer had before its LoRA files are no longer in the model's files."""
        if part.name not in self._adaptations:
            return False
        adaptation, identity = self._adaptations[part.name]
        return bool(adaptation.merged) and identity != part.identity_in(folder)

    def forget(self, name: str) -> None:
        """Let go of a transformer."""
        self._adaptations.pop(name, None)
