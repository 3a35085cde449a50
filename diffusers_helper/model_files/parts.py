"""What a model consists of: for each part its repository, its files, and how to recognise them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers_helper.core.messages import Message
from diffusers_helper.core.variants import VARIANTS, Variant, variant_named

TWIN = ".fp16"
"""What stands in the names of half-precision twins; they are read where there are no others."""
PUBLISHED = Path(__file__).parent / "published"
"""Configurations of the published sizes, for files of weights that come without one."""


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: how the program calls it.
        title: what it is, for people.
        repository: id of the public repository it belongs to, and its place in a model folder.
        folder: folder inside the repository; "" is its root.
        size: bytes of the public files, about; used where the hub cannot be asked.
        needs: small files without which it cannot be loaded; of each tuple one is enough.
        config: the file that says what it is, one of `kinds`; "" for tokenizers.
        weights: stem of its safetensors files; "" if it has none.
        marker: end of a weight's name that only such a part has; its last axis is as long as the config's `width` says.
        width: fields of the config whose product is that length; of a list the last entry counts.
        rows: the field of the config that its first axis is as long as; "" where that says nothing.
        once_per_video: the share of its bytes that a video reads once, about: modulation weights.
        published_as: the dtype of the published weights, by safetensors' name.

    Where its files are is a path: a folder in the published layout, or one file of weights.
    """

    name: str
    title: str
    repository: str
    folder: str
    size: int
    needs: tuple[tuple[str, ...], ...] = ()
    config: str = ""
    kinds: tuple[str, ...] = ()
    weights: str = ""
    marker: str = ""
    width: tuple[str, ...] = ()
    rows: str = ""
    once_per_video: float = 0.0
    published_as: str = "F16"

    @property
    def is_transformer(self) -> bool:
        """Whether it is a variant's transformer."""
        return self.name.startswith("transformer")

    @property
    def in_blocks(self) -> bool:
        """Whether it is one of the large parts, whose weights are read block by block and by this program."""
        return self.is_transformer or self.name == "text_encoder"

    @property
    def patterns(self) -> list[str]:
        """Its files in the repository, as patterns; formats other than safetensors and half-precision twins are not."""
        names = ["*.json", "*.txt"]
        if self.weights:
            stem = self.weights
            names = [self.config, f"{stem}.safetensors", *self.shard_names(), f"{stem}.safetensors.index.json"]
        return [f"{self.folder}/{name}" if self.folder else name for name in names]

    def shard_names(self, twin: str = "") -> list[str]:
        """What its weight files are called where there are several, as patterns; `twin` is "" or TWIN."""
        stem = self.weights
        return list(dict.fromkeys((f"{stem}{twin}-*-of-*.safetensors", f"{stem}-*-of-*{twin}.safetensors")))

    def config_file(self, place: Path) -> Path:
        """The file that says what is at `place`.

        Of a file of weights it is NAME.config.json beside it, and else that of the published size.
        """
        if not place.is_file():
            return place / self.config
        beside = place.with_suffix(".config.json")
        return beside if beside.is_file() else PUBLISHED / f"{'transformer' if self.is_transformer else self.name}.json"

    def files_in(self, place: Path) -> list[Path]:
        """Its files at `place`, sorted, without those of other parts and formats."""
        if place.is_file():
            return sorted({place, self.config_file(place)})
        names = [pattern.rpartition("/")[2] for pattern in self.patterns]
        found = {file for name in names for file in place.glob(name)}
        if self.weights and not any(file.suffix == ".safetensors" for file in found):
            names = [*self.shard_names(TWIN), f"{self.weights}{TWIN}.safetensors", f"{self.weights}*.json"]
            found |= {file for name in names for file in place.glob(name)}
        return sorted(found)

    def bytes_in(self, place: Path) -> int:
        """Bytes of its files at `place`."""
        return sum(file.stat().st_size for file in self.files_in(place))

    def identity_in(self, place: Path) -> list[tuple[str, str]]:
        """What tells its files at `place` from others, as data: the hub's checksum, or size and time of change."""
        return [(file.name, _content_of(file.resolve())) for file in self.files_in(place)]

    def expected_width(self, config: dict[str, Any]) -> int | None:
        """Length of the marker's last axis by `config`; None when the config leaves it to the default."""
        product = 1
        for field in self.width:
            value = config.get(field)
            value = value[-1] if isinstance(value, list) and value else value
            if not isinstance(value, int):
                return None
            product *= value
        return product


def _content_of(file: Path) -> str:
    """The hub's cache names a file by its checksum; other files are told apart by size and time of change."""
    facts = file.stat()
    return file.name if file.parent.name == "blobs" else f"{facts.st_size} {facts.st_mtime_ns}"


_HUNYUAN = "hunyuanvideo-community/HunyuanVideo"
_REDUX = "lllyasviel/flux_redux_bfl"

TEXT_ENCODER = Part(
    name="text_encoder",
    title=Message("the Llama text encoder"),
    repository=_HUNYUAN,
    folder="text_encoder",
    size=15_000_000_000,
    config="config.json",
    kinds=("LlamaModel", "llama"),
    weights="model",
    marker="embed_tokens.weight",
    width=("hidden_size",),
    rows="vocab_size",
)
TOKENIZER = Part(
    name="tokenizer",
    title=Message("the Llama tokenizer"),
    repository=_HUNYUAN,
    folder="tokenizer",
    size=9_000_000,
    needs=(("tokenizer.json",), ("tokenizer_config.json",)),
)
TEXT_ENCODER_2 = Part(
    name="text_encoder_2",
    title=Message("the CLIP text encoder"),
    repository=_HUNYUAN,
    folder="text_encoder_2",
    size=250_000_000,
    config="config.json",
    kinds=("CLIPTextModel", "clip_text_model"),
    weights="model",
    marker="token_embedding.weight",
    width=("hidden_size",),
    rows="vocab_size",
)
TOKENIZER_2 = Part(
    name="tokenizer_2",
    title=Message("the CLIP tokenizer"),
    repository=_HUNYUAN,
    folder="tokenizer_2",
    size=2_000_000,
    needs=(("vocab.json", "tokenizer.json"), ("merges.txt", "tokenizer.json"), ("tokenizer_config.json",)),
)
VAE = Part(
    name="vae",
    title=Message("the VAE"),
    repository=_HUNYUAN,
    folder="vae",
    size=500_000_000,
    config="config.json",
    kinds=("AutoencoderKLHunyuanVideo",),
    weights="diffusion_pytorch_model",
    marker="decoder.conv_in.conv.bias",
    width=("block_out_channels",),
)
IMAGE_ENCODER = Part(
    name="image_encoder",
    title=Message("the SigLIP image encoder"),
    repository=_REDUX,
    folder="image_encoder",
    size=860_000_000,
    config="config.json",
    kinds=("SiglipVisionModel", "siglip_vision_model"),
    weights="model",
    marker="patch_embedding.bias",
    width=("hidden_size",),
)
FEATURE_EXTRACTOR = Part(
    name="feature_extractor",
    title=Message("the SigLIP image processor"),
    repository=_REDUX,
    folder="feature_extractor",
    size=1_000,
    config="preprocessor_config.json",
    kinds=("SiglipImageProcessor", "SiglipImageProcessorPil", "SiglipImageProcessorFast"),
)


def _transformer(variant: Variant) -> Part:
    return Part(
        name=f"transformer_{variant.name}",
        title=Message("the {model} transformer", model=variant.title),
        repository=variant.checkpoint,
        folder="",
        size=25_750_000_000,
        config="config.json",
        # The second is what diffusers calls the same model.
        kinds=("HunyuanVideoTransformer3DModelPacked", "HunyuanVideoFramepackTransformer3DModel"),
        weights="diffusion_pytorch_model",
        marker="clean_x_embedder.proj.bias",
        width=("num_attention_heads", "attention_head_dim"),
        once_per_video=0.264,
        published_as="BF16",
    )


TEXT_PARTS = (TEXT_ENCODER, TOKENIZER, TEXT_ENCODER_2, TOKENIZER_2)
VISION_PARTS = (IMAGE_ENCODER, FEATURE_EXTRACTOR)
_TRANSFORMERS = {name: _transformer(variant) for name, variant in VARIANTS.items()}
_SHARED = (*TEXT_PARTS, VAE, *VISION_PARTS)


def transformer_part(variant: str) -> Part:
    """The transformer of the variant of that name; raises SettingsError if there is none."""
    return _TRANSFORMERS[variant_named(variant).name]


def parts_for(variants: Iterable[str]) -> list[Part]:
    """All parts that the named variants need, in the order of their use."""
    return [*_SHARED, *(transformer_part(variant) for variant in variants)]
