"""The transformer of each section, loaded when the first one needs it and when the variant changes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from torch import nn

from diffusers_helper.core.events import Event, Note, StageStarted
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.core.messages import Message
from diffusers_helper.core.variants import variant_named
from diffusers_helper.framepack.engine import Sampler
from diffusers_helper.loading.components import Components
from diffusers_helper.memory.budget import Work
from diffusers_helper.model_files.parts import VAE
from diffusers_helper.models.kernels import PLAIN, Kernels


class ModelLoader:
    """Loads transformers one at a time.

    Args:
        components: have the files, and the memory.
        work: what a step takes beside the weights.
        check: called between layers and while loading; it may raise.
    """

    def __init__(self, components: Components, work: Work, check: Callable[[], None]) -> None:
        self._components = components
        self._work = work
        self._check = check
        self._kernels: Kernels = PLAIN

    @property
    def kernels(self) -> Kernels:
        """Those of the transformer that was loaded last; the autoencoder uses them, too."""
        return self._kernels

    def sampler(self, variant: str) -> Generator[Event, None, Sampler]:
        """Load the transformer of `variant` in place of another one; yields StageStarted and Note."""
        components = self._components
        yield StageStarted("load", Message("Loading the {model} transformer", model=variant_named(variant).title))
        components.load(VAE)  # decoding needs it: what is wrong with its files is told before any sampling
        transformer = components.transformer(variant)
        execution, told = components.plan_sampling(transformer, self._work)
        self._kernels = execution.kernels
        for text in (*((told,) if told else ()), *components.notes_on(transformer)):
            yield Note(text)

        @contextmanager
        def use(module: nn.Module) -> Iterator[None]:
            with components.residency.use(module, swap=module is transformer), interruptible(module, self._check):
                yield

        return Sampler(transformer, components.device, transformer.dtype, execution, use)
