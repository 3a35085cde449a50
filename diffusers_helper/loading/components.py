"""The parts of one model, loaded when a stage of the work needs them and placed on the device while it does.

The files are `model_files`' concern, making modules of them is `building`'s and `loading`'s, placing is `memory`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.loading.building import attention_head_dim, build
from diffusers_helper.loading.embedding_cache import EmbeddingCache, key_of
from diffusers_helper.loading.environment import device_name, environment
from diffusers_helper.loading.weights import Place, bytes_in_files
from diffusers_helper.memory import MemoryPolicy, Residency, cpu, empty_caches, get_cuda_free_memory_gb, policy_for
from diffusers_helper.memory.budget import GIB, Work, budget, sentence, weights_of
from diffusers_helper.memory.ram import Ram, free_ram
from diffusers_helper.memory.schedule import evenly_spaced
from diffusers_helper.model_files import LocalFolder, ModelSource, Part, parts, resolve_models, transformer_part
from diffusers_helper.model_files.contents import is_fp8, stored_numbers
from diffusers_helper.model_files.source import OnProgress
from diffusers_helper.models.attention import resolve_attention
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.fp8 import use_kernels
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import PLAIN, Kernels
from diffusers_helper.models.sdpa import AttentionFunction, sdpa

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
    from transformers import CLIPTextModel, LlamaModel, PreTrainedTokenizerBase, SiglipVisionModel
    from transformers.image_processing_utils import BaseImageProcessor

    from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked

__all__ = ["Components", "LocalFolder", "ModelSource", "TextEncoders", "VisionEncoder", "resolve_models"]

RAM_FOR_WORK = 2 * 1024**3
"""RAM that weights leave free, bytes: for pixels, libraries, and the system's files."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextEncoders:
    """What turns a prompt into conditions; `device` is where the encoders compute, wherever their weights are kept."""

    text_encoder: LlamaModel
    text_encoder_2: CLIPTextModel
    tokenizer: PreTrainedTokenizerBase
    tokenizer_2: PreTrainedTokenizerBase
    device: torch.device


@dataclass(frozen=True)
class VisionEncoder:
    """What turns the start picture into image features."""

    feature_extractor: BaseImageProcessor
    image_encoder: SiglipVisionModel


class Components:
    """The models of one source on one device.

    Args:
        source: where their files are.
        device: where they compute.
        dtype: of all of them; None is bfloat16 for the transformer and float16 for the rest, on a CPU float32 for all.
        attention: name of the transformer's attention backend.
        fused: compile kernels for the device where that works.
        on_progress: gets a part's title, the bytes of it that are here and those in all, while it is downloaded;
            what it raises stops the download.
        on_loading: gets what is being done to a large part ("Loading ..."), the bytes of it that are done and in all;
            what it raises stops that.
        fp8: folder of transformers' weights in 8 bits, which are made there where needed: an approximation in
            half the RAM. None uses the exact ones.
        offline: never use a network.
        preserved_gb: device memory to leave free for the work where not everything fits, GiB.
        embeddings: keeps what the encoders gave; None keeps nothing.

    Attributes:
        device: as given.
        embeddings: as given, or one that never holds anything.
        dtype: the transformer's.
        residency: places models on the device; the transformer's user goes through it.
        free_gb: tells how many GiB of the device are free.
        free_ram: tells how much RAM is.

    Every method that loads raises ModelFilesError for files that cannot be used and OutOfMemoryError.
    """

    def __init__(
        self,
        source: ModelSource,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        attention: str = "auto",
        fused: bool = True,
        on_progress: OnProgress | None = None,
        offline: bool = False,
        preserved_gb: float = 6.0,
        embeddings: EmbeddingCache | None = None,
        on_loading: OnProgress = lambda *_: None,
        fp8: Path | None = None,
    ) -> None:
        self.source = source
        self.device = torch.device(device)
        on_cpu = self.device.type == "cpu"
        self.dtype = dtype or (torch.float32 if on_cpu else torch.bfloat16)
        self._encoder_dtype = dtype or (torch.float32 if on_cpu else torch.float16)
        self.free_gb: Callable[[torch.device], float] = get_cuda_free_memory_gb
        self.free_ram: Callable[[], Ram] = free_ram
        self.residency = Residency(self.device, policy_for(self.device, preserved_gb))
        self.embeddings = embeddings or EmbeddingCache(None)
        self._attention = attention
        self._fused = fused
        self._on_progress = on_progress
        self._on_loading = on_loading
        self._fp8 = fp8
        self._offline = offline
        self._loaded: dict[str, Any] = {}
        self._attention_function: AttentionFunction = sdpa
        self._kernels: Kernels = PLAIN
        self._fp8_parts: set[str] = set()

    @property
    def policy(self) -> MemoryPolicy:
        """How memory is shared."""
        return self.residency.policy

    @property
    def defaults(self) -> GenerationRequest:
        """Settings that suit the model; the resolution is never None."""
        return self.source.defaults

    def plan_memory(self, preserved_gb: float) -> None:
        """Choose anew how memory is shared, from what is free now: for each job, before its first part.

        `preserved_gb` GiB of the device stay free where not everything fits.
        """
        policy = policy_for(self.device, preserved_gb, self.free_gb)
        if self.policy.resident != policy.resident:  # what is loaded for the one cannot run as the other
            self.release_all()
        self.residency.policy = policy

    def plan_sampling(
        self, transformer: HunyuanVideoTransformer3DModelPacked, work: Work
    ) -> tuple[Execution, Message | None]:
        """Decide what of `transformer` stays on the device while it samples, and how its sections are decoded.

        Returns how it computes, and what the user should know of the plan; None where everything stays.
        """
        execution = Execution(self._attention_function, self._kernels)
        if self.policy.resident:
            return execution, None
        weights = weights_of(transformer)
        free = int(self.free_gb(self.device) * GIB)
        plan = budget(free, int(self.policy.preserved_gb * GIB), work, weights)
        self.residency.policy = replace(
            self.policy, slots=plan.slots, resident_bytes=plan.resident_bytes, tile_vae=plan.tile_vae
        )
        execution.mlp_chunk = plan.mlp_chunk
        if parts.VAE.name in self._loaded:
            self._tile(self._loaded[parts.VAE.name])
        said = sentence(plan, len(weights.blocks), len(evenly_spaced(weights.blocks, plan.resident_bytes)))
        logger.info("%s %s", said, plan)
        return execution, said

    def check(self, variants: Iterable[str]) -> None:
        """Raise ModelFilesError if the files of the named variants cannot be used; reads no weights."""
        self.source.check(variants, offline=self._offline)

    def embedding_key(self, wanted: Iterable[Part], *facts: object) -> str | None:
        """The cache's name for what `wanted` make of an input with these `facts`; None while files are lacking.

        It changes with the files, the dtype, the device's kind and the libraries: all that may shape a number.
        """
        identities = []
        for part in wanted:
            folder, problems = self.source.inspect(part)
            if folder is None or problems:
                return None
            identities.append(part.identity_in(folder))
        versions = [version(name) for name in ("torch", "transformers")]
        return key_of(identities, versions, device_name(self.device), str(self._encoder_dtype), *facts)

    def environment(self, variant: str) -> dict[str, str]:
        """What the bits of a video of `variant` depend on here, besides its request; by name, as words."""
        choices = {"precision": str(self.dtype), "attention": self._attention, "fused kernels": self._fused}
        choices["weights"] = "8 bits" if self._fp8 else self._stored_as(variant)
        return environment(self.source, variant, self.device, **choices)

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

    def transformer(self, variant: str) -> HunyuanVideoTransformer3DModelPacked:
        """The transformer of the named variant, loaded; the one of another variant is given up first.

        Run it inside `residency.use(transformer, swap=True)`.
        """
        part = transformer_part(variant)
        self.load(part)
        loaded: HunyuanVideoTransformer3DModelPacked = self._loaded[part.name]
        return loaded

    def load(self, part: Part) -> None:
        """Load `part` now instead of at its first use; a transformer takes the place of another variant's."""
        if part.is_transformer:
            self._unload(*(name for name in self._loaded if name.startswith("transformer") and name != part.name))
        self._part(part)

    def streams(self, part: Part) -> bool:
        """Whether `part` is only ever read from its files to the device."""
        return part is parts.TEXT_ENCODER and self.device.type == "cuda" and not self.policy.resident

    def ram_need(self, part: Part, folder: Path) -> int:
        """RAM that the weights of `part` in `folder` take, bytes, about, whatever their form in the files.

        Where they travel to a GPU, those that are read once stay in their files.
        """
        if part.in_blocks and self.policy.resident and self.device.type != "cpu":
            return 0  # they go straight to the device
        if not part.weights:
            return part.bytes_in(folder)
        bytes_each = 1 if part.is_transformer and self._fp8 else self._dtype_of(part).itemsize
        share = 1 - part.once_per_video if self.device.type == "cuda" else 1
        return int(sum(stored_numbers(part, folder).values()) * share) * bytes_each

    def _stored_as(self, variant: str) -> str:
        part = transformer_part(variant)
        folder, problems = self.source.inspect(part)
        return "fp8 files" if folder and not problems and is_fp8(part, folder) else "exact"

    def notes_on(self, transformer: HunyuanVideoTransformer3DModelPacked) -> Iterator[str]:
        """Sentences for the user about how it was loaded."""
        names = [name for name, part in self._loaded.items() if part is transformer]
        if self._fp8_parts.intersection(names):
            yield Message(
                "The transformer's files have 8-bit weights (fp8): the pictures differ a little from those of the "
                "published weights."
            )
        if left := bytes_in_files(transformer):
            yield Message(
                "{size:.1f} GB of the transformer's weights do not fit in RAM: they are read from the disk in every "
                "step, which is slower. Close other programs, or start with --weights fp8.",
                size=left / 1e9,
            )

    def release_all(self) -> None:
        """Give up everything that is loaded, on the device and in memory."""
        self.residency.stop_swapping()
        self._unload(*self._loaded)
        self.residency.release_all()  # what somebody still holds

    def _part(self, part: Part) -> Any:
        if part.name not in self._loaded:
            folder = self.source.folder(part, offline=self._offline, on_progress=self._on_progress)
            self.source.require_unchanged(part, folder, partial(self._on_loading, _checking(part)))
            logger.info("Loading %s", part.title)
            self._loaded[part.name] = self._load(part, folder)
        return self._loaded[part.name]

    def _load(self, part: Part, folder: Path) -> Any:
        is_transformer = part.is_transformer
        if is_transformer:  # before 26 GB are read
            backend = resolve_attention(self._attention, self.device, self.dtype, attention_head_dim(part, folder))
        fp8 = self._fp8_file(part, folder) if is_transformer else None
        loaded = build(part, folder, self._dtype_of(part), self._place(part), self._on_loading, fp8)
        if is_transformer:
            (self._fp8_parts.add if is_fp8(part, folder) else self._fp8_parts.discard)(part.name)
            self._attention_function = backend.load()
            self._kernels = resolve_kernels(self.device, self.dtype, fused=self._fused)
            use_kernels(loaded, self._kernels)
        return loaded

    def _dtype_of(self, part: Part) -> torch.dtype:
        return self.dtype if part.is_transformer else self._encoder_dtype

    def _fp8_file(self, part: Part, folder: Path) -> Path | None:
        key = key_of("eight bits", part.identity_in(folder))
        return self._fp8 / f"{part.name}-{key[:16]}.safetensors" if self._fp8 else None

    def _tile(self, vae: AutoencoderKLHunyuanVideo) -> None:
        tiled = self.policy.tile_vae
        for change in (vae.enable_tiling, vae.enable_slicing) if tiled else (vae.disable_tiling, vae.disable_slicing):
            change()

    def _place(self, part: Part) -> Place:
        """Where the weights of a large part go."""
        if self.policy.resident and self.device.type != "cpu":
            return Place(self.device)
        ram = self.free_ram()
        if self.device.type != "cuda":
            return Place(cpu, ram=ram.available + ram.swap)
        # The text encoder runs once per prompt: a copy of it in RAM would cost more time than it saves.
        room = 0 if self.streams(part) else ram.available - RAM_FOR_WORK
        return Place(cpu, pin=True, ram=room, stream=True)

    def _unload(self, *names: str) -> None:
        for name in names:
            self._loaded.pop(name, None)
        if names:
            empty_caches()


def _checking(part: Part) -> Message:
    return Message("Comparing {title} with its checksums, once", title=part.title)
