"""The parts of one model, loaded when a stage of the work needs them and placed on the device while it does.

The files are `model_files`' concern, making modules of them is `building`'s and `loading`'s, placing is `memory`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffusers_helper.core.loras import Lora
from diffusers_helper.core.messages import Message
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.loading.adapting import Adapting
from diffusers_helper.loading.building import attention_head_dim, build
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.embedding_cache import EmbeddingCache
from diffusers_helper.loading.encoders import TextEncoders, VisionEncoder
from diffusers_helper.loading.environment import Environment
from diffusers_helper.loading.lora_files import LoraFiles
from diffusers_helper.loading.notes import weight_notes
from diffusers_helper.loading.placement import Placement
from diffusers_helper.loading.precision import Precisions, TensorCores
from diffusers_helper.loading.step_ratios import StepRatios
from diffusers_helper.lora.applying import Adaptation, Loras
from diffusers_helper.lora.reading import Adapter
from diffusers_helper.memory import MemoryPolicy, Residency, empty_caches, get_cuda_free_memory_gb, policy_for
from diffusers_helper.memory.budget import GIB, Work, budget, sentence, weights_of
from diffusers_helper.memory.schedule import evenly_spaced
from diffusers_helper.model_files import LocalFolder, ModelSource, Part, parts, resolve_models, transformer_part
from diffusers_helper.model_files.contents import quantised_as
from diffusers_helper.model_files.source import OnProgress
from diffusers_helper.models.attention import resolve_attention
from diffusers_helper.models.eight_bit import resolve_eight_bit_attention, resolve_linears
from diffusers_helper.models.eight_bit_attention import EightBitAttention
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.fp8 import use_kernels
from diffusers_helper.models.kernel_selection import resolve_kernels, stream_dtype
from diffusers_helper.models.kernels import PLAIN, Kernels
from diffusers_helper.models.sdpa import AttentionFunction, sdpa

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo

    from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked

__all__ = ["Components", "ComputeOptions", "LoadingProgress", "LocalFolder", "resolve_models"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadingProgress:
    """Who hears of what takes long; what a callback raises stops that.

    Attributes:
        downloading: gets a part's title, the bytes of it that are here and those in all.
        loading: gets what is being done to a large part ("Loading ..."), the bytes of it that are done and in all.
    """

    downloading: OnProgress | None = None
    loading: OnProgress = lambda *_: None


class Components:
    """The models of one source on one device.

    Args:
        source: where their files are.
        device: where they compute.
        options: how they do.
        progress: hears of downloads and of loading.
        embeddings: keeps what the encoders gave; None keeps nothing.
        offline: never use a network.

    Attributes:
        source, device, progress, offline: as given.
        embeddings: as given, or one that never holds anything.
        loras: finds LoRA files; by their paths alone until somebody gives it folders.
        precisions: what blocks multiply here.
        step_ratios: what MagCache knows of the transformers; as it came with them until somebody gives it a folder.
        dtype: the transformer's.
        stagger: how many steps the sections that one reads are ahead of it; None for one section after the other.
        environment: what the numbers made here depend on.
        placement: where weights go.
        residency: places models on the device; the transformer's user goes through it.
        free_gb: tells how many GiB of the device are free.

    Every method that loads raises ModelFilesError for files that cannot be used and OutOfMemoryError.
    """

    def __init__(
        self,
        source: ModelSource,
        device: torch.device | str,
        options: ComputeOptions | None = None,
        progress: LoadingProgress | None = None,
        embeddings: EmbeddingCache | None = None,
        *,
        offline: bool = False,
    ) -> None:
        self.source = source
        self.device = torch.device(device)
        self._options = options or ComputeOptions()
        self.progress = progress or LoadingProgress()
        self.dtype = self._options.dtype_on(self.device, transformer=True)
        self.stagger = self._options.stagger
        self.environment = Environment(source, self.device, self._options)
        self.placement = Placement(self.device, self._options)
        self.free_gb: Callable[[torch.device], float] = get_cuda_free_memory_gb
        self.residency = Residency(self.device, policy_for(self.device, preserved_gb=6.0))  # until a job plans its own
        self.embeddings = embeddings or EmbeddingCache(None)
        self.loras = LoraFiles()
        self.precisions = Precisions(source, TensorCores(self.device, self._options))
        self.step_ratios = StepRatios(source)
        self._adapting = Adapting(self.device)
        self.offline = offline
        self._loaded: dict[str, Any] = {}
        self._attention_function: AttentionFunction = sdpa
        self._kernels: Kernels = PLAIN
        self._quantised: dict[str, str] = {}

    @property
    def policy(self) -> MemoryPolicy:
        """How memory is shared."""
        return self.residency.policy

    def plan_memory(self, preserved_gb: float) -> None:
        """Choose anew how memory is shared, from what is free now: for each job, before its first part.

        `preserved_gb` GiB of the device stay free where not everything fits.
        """
        policy = policy_for(self.device, preserved_gb, self.free_gb)
        if self.policy.resident != policy.resident:  # what is loaded for the one cannot run as the other
            self.release_all()
        self.residency.policy = policy

    def plan_sampling(
        self,
        transformer: HunyuanVideoTransformer3DModelPacked,
        work: Work,
        linears: str | None = None,
        attention: str | None = None,
    ) -> tuple[Execution, Message | None]:
        """Decide what of `transformer` stays on the device while it samples, and how its sections are decoded.

        Args:
            transformer: loaded here.
            work: what a step computes.
            linears: "exact", "fp8" or "int8": what the blocks' linear layers multiply. None is what the options say.
            attention: backend of `models.eight_bit.ATTENTION` for the blocks, in place of the process's.

        Returns how it computes, and what the user should know of the plan; None where everything stays.
        Raises SettingsError for 8-bit mathematics that the device cannot do.
        """
        execution = self._execution(
            transformer.config["attention_head_dim"], linears or self._options.linears, attention
        )
        if self.policy.resident:
            return execution, None
        weights = weights_of(transformer)
        weights = replace(weights, beside=weights.beside + self.adaptation(transformer).nbytes)
        free = int(self.free_gb(self.device) * GIB)
        work = replace(work, wide_streams=execution.stream is not None)
        plan = budget(free, int(self.policy.preserved_gb * GIB), work, weights)
        self.residency.policy = replace(
            self.policy, slots=plan.slots, resident_bytes=plan.resident_bytes, tile_vae=plan.tile_vae
        )
        execution.mlp_chunk = plan.mlp_chunk
        said = sentence(plan, len(weights.blocks), len(evenly_spaced(weights.blocks, plan.resident_bytes)))
        logger.info("%s %s", said, plan)
        return execution, said

    def _execution(self, head_dim: int, linears: str, attention: str | None) -> Execution:
        stream = stream_dtype(self.device.type, self.dtype)
        execution = Execution(self._attention_function, self._kernels, stream=stream)
        if attention:
            execution.eight_bit_attention = resolve_eight_bit_attention(attention, self.device, self.dtype, head_dim)
        if isinstance(execution.attention, EightBitAttention):
            execution = replace(execution, attention=sdpa, eight_bit_attention=execution.attention)
        execution.eight_bit_linears = resolve_linears(linears, self._kernels, self.device, self.dtype)
        return execution

    @contextmanager
    def text(self) -> Iterator[TextEncoders]:
        """The text encoders, ready to run. Where memory is short they are given up after use: keep what they gave."""
        encoders = TextEncoders(
            self._part(parts.TEXT_ENCODER),
            self._part(parts.TEXT_ENCODER_2),
            self._part(parts.TOKENIZER),
            self._part(parts.TOKENIZER_2),
            self.device,
        )
        try:
            with self.residency.use(encoders.text_encoder, swap=True), self.residency.use(encoders.text_encoder_2):
                yield encoders
        finally:
            if not self.policy.resident:
                vars(encoders).clear()  # or the user's variable would keep 15 GB of weights alive
                self._unload(parts.TEXT_ENCODER.name, parts.TEXT_ENCODER_2.name)

    @contextmanager
    def vision(self) -> Iterator[VisionEncoder]:
        """The image encoder, ready to run; where memory is short it is given up after use."""
        image_encoder, feature_extractor = self._part(parts.IMAGE_ENCODER), self._part(parts.FEATURE_EXTRACTOR)
        encoder = VisionEncoder(feature_extractor, image_encoder)
        del image_encoder  # `encoder` alone holds it
        try:
            with self.residency.use(encoder.image_encoder):
                yield encoder
        finally:
            if not self.policy.resident:
                vars(encoder).clear()
                self._unload(parts.IMAGE_ENCODER.name)

    @contextmanager
    def vae(self) -> Iterator[AutoencoderKLHunyuanVideo]:
        """The video autoencoder, ready to run, in tiles and slices where the policy says so."""
        with self.residency.use(self._part(parts.VAE)) as vae:
            self._tile(vae)
            yield vae

    def transformer(self, variant: str, loras: Loras | None = None) -> HunyuanVideoTransformer3DModelPacked:
        """The transformer of the named variant, loaded, with these LoRA files; another variant's is given up first.

        Run it inside `residency.use(transformer, swap=True)`, and with LoRA files inside `adaptation(...).placed(...)`.
        """
        part = transformer_part(variant)
        if self._adapting.is_stale(part):
            self._unload(part.name)
        self.load(part)
        loaded: HunyuanVideoTransformer3DModelPacked = self._loaded[part.name]
        try:
            self._adapting.of(part).apply(loras or Loras(), merge=self.policy.resident)
        except BaseException:  # it may be changed in part
            del loaded
            self._unload(part.name)
            raise
        return loaded

    @property
    def loaded_variants(self) -> tuple[str, ...]:
        """The variants whose transformers are in memory: one at most."""
        return tuple(name for name in VARIANTS if transformer_part(name).name in self._loaded)

    def adaptation(self, transformer: HunyuanVideoTransformer3DModelPacked) -> Adaptation:
        """The LoRA files of a transformer that is loaded."""
        return self._adapting.of(
            next(part for part in map(transformer_part, VARIANTS) if self._loaded.get(part.name) is transformer)
        )

    def adapters(self, loras: Sequence[Lora], variant: str) -> tuple[Adapter, ...]:
        """What LoRA files change of the variant's transformer, whose weights are not read; raises LoraError."""
        if not loras:
            return ()
        part = transformer_part(variant)
        folder = None if part.name in self._loaded else self._folder(part)
        return self.loras.adapters(loras, self._adapting.names(part, folder))

    def load(self, part: Part) -> None:
        """Load `part` now instead of at its first use; a transformer takes the place of another variant's."""
        if part.is_transformer:
            self._unload(*(name for name in self._loaded if name.startswith("transformer") and name != part.name))
        self._part(part)

    def notes_on(self, transformer: HunyuanVideoTransformer3DModelPacked) -> Iterator[str]:
        """Sentences for the user about how it was loaded."""
        names = [name for name, part in self._loaded.items() if part is transformer]
        form = next((self._quantised[name] for name in names if self._quantised.get(name)), "")
        refused = any(file.refused for name, file in self.placement.shared.items() if name in names)
        return weight_notes(transformer, form, refused=refused)

    def release_all(self) -> None:
        """Give up everything that is loaded, on the device and in memory."""
        self.residency.stop_swapping()
        self._unload(*self._loaded)
        self.residency.release_all()  # what somebody still holds

    def _part(self, part: Part) -> Any:
        if part.name not in self._loaded:
            folder = self._folder(part)
            self.source.require_unchanged(part, folder, partial(self.progress.loading, _checking(part)))
            logger.info("Loading %s", part.title)
            self._loaded[part.name] = self._load(part, folder)
        return self._loaded[part.name]

    def _folder(self, part: Part) -> Path:
        return self.source.folder(part, offline=self.offline, on_progress=self.progress.downloading)

    def _load(self, part: Part, folder: Path) -> Any:
        is_transformer = part.is_transformer
        if is_transformer:  # before 26 GB are read
            backend = resolve_attention(
                self._options.attention, self.device, self.dtype, attention_head_dim(part, folder)
            )
        dtype = self._options.dtype_on(self.device, transformer=is_transformer)
        place = self.placement.place(part, self.policy)
        loaded = build(part, folder, dtype, place, self.progress.loading, self._options.fp8_file(part, folder))
        if is_transformer:
            self._quantised[part.name] = quantised_as(part, folder)
            self._attention_function = backend.load()
            self._kernels = resolve_kernels(self.device, self.dtype, fused=self._options.fused)
            use_kernels(loaded, self._kernels)
            self._adapting.begin(part, folder, loaded, self._kernels)
        return loaded

    def _tile(self, vae: AutoencoderKLHunyuanVideo) -> None:
        tiled = self.policy.tile_vae
        for change in (vae.enable_tiling, vae.enable_slicing) if tiled else (vae.disable_tiling, vae.disable_slicing):
            change()

    def _unload(self, *names: str) -> None:
        for name in names:
            self._loaded.pop(name, None)
            self._adapting.forget(name)
        if names:
            empty_caches()


def _checking(part: Part) -> Message:
    return Message("Comparing {title} with its checksums, once", title=part.title)
