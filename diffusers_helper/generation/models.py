"""The transformer of each section, loaded when the first one needs it and when the variant changes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from diffusers_helper.core.directing import Cue
from diffusers_helper.core.events import Event, Note, StageStarted
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import SectionPlan
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.core.variants import variant_named
from diffusers_helper.framepack.sampler import Sampler
from diffusers_helper.loading.components import Components
from diffusers_helper.lora.applying import Loras
from diffusers_helper.memory.budget import Work
from diffusers_helper.model_files.parts import VAE
from diffusers_helper.models.kernels import PLAIN, Kernels
from diffusers_helper.models.step_caches import StepCache, new_step_cache


class ModelLoader:
    """Loads transformers one at a time.

    Args:
        components: have the files, and the memory.
        settings: what products are to be made of.
        work: what a step takes beside the weights.
        check: called between layers and while loading; it may raise.
        loras: the LoRA files of the video.
        cues: what its sections follow; the weights of these files are there.
    """

    def __init__(
        self,
        components: Components,
        settings: SamplingSettings,
        work: Work,
        check: Callable[[], None],
        loras: Sequence[Lora] = (),
        cues: Mapping[int, Cue] | None = None,
    ) -> None:
        self._components = components
        self._settings = settings
        self._work = work
        self._check = check
        self._loras = loras
        self._weights = {number: cue.loras for number, cue in (cues or {}).items()}
        self._kernels: Kernels = PLAIN
        self._told: set[str] = {""}

    def notes(self, variants: Sequence[str]) -> Iterator[Message]:
        """Say what of the LoRA files is used; raises LoraError for one that does not fit, before a model is loaded."""
        found = {adapter.note for variant in variants for adapter in self._components.adapters(self._loras, variant)}
        yield from sorted(found)

    @property
    def kernels(self) -> Kernels:
        """Those of the transformer that was loaded last; the autoencoder uses them, too."""
        return self._kernels

    def sampler(self, variant: str) -> Generator[Event, None, Sampler]:
        """Load the transformer of `variant` in place of another one; yields StageStarted and Note."""
        components = self._components
        yield StageStarted("load", Message("Loading the {model} transformer", model=variant_named(variant).title))
        components.load(VAE)  # decoding needs it: what is wrong with its files is told before any sampling
        weights = set(self._weights.values()) or {()}
        constant = weights.pop() if len(weights) == 1 else None
        transformer = components.transformer(variant, Loras(components.adapters(self._loras, variant), constant))
        adaptation = components.adaptation(transformer)
        precision = components.precisions.proven(self._settings, variant)
        execution, told = components.plan_sampling(
            transformer, self._work, linears=precision.linears, attention=precision.attention
        )
        execution.constant = components.policy.resident and not self._loras
        self._kernels = execution.kernels
        for text in (told or "", *components.notes_on(transformer), precision.note):
            if text not in self._told:  # said when another variant was loaded
                self._told.add(text)
                yield Note(text)

        at: tuple[float, ...] = ()

        def begin(section: SectionPlan) -> None:
            nonlocal at
            at = self._weights.get(section.prompt, ())

        @contextmanager
        def use(module: nn.Module) -> Iterator[None]:
            with (
                adaptation.placed(at, stay=components.policy.resident),
                components.residency.use(module, swap=module is transformer),
                interruptible(module, self._check),
            ):
                yield

        def new_cache(settings: SamplingSettings) -> StepCache:
            ratios = components.step_ratios.needed(settings, variant)
            return new_step_cache(settings, ratios, in_8_bits=execution.in_8_bits)

        return Sampler(transformer, components.device, transformer.dtype, execution, use, begin, new_cache)
