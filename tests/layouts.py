"""A model's weights in the layouts of other programs: single files, their prefixes and number formats."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files import Part, parts, transformer_part
from diffusers_helper.model_files.weight_files import weight_files
from tests.gguf_writing import write_gguf

Weights = dict[str, Tensor]
COMFYUI = {
    parts.TEXT_ENCODER: ("text_encoders/llava_llama3.safetensors", "model."),
    parts.TEXT_ENCODER_2: ("text_encoders/clip_l.safetensors", "text_model."),
    parts.VAE: ("vae/hunyuan_video_vae.safetensors", ""),
    parts.IMAGE_ENCODER: ("clip_vision/sigclip_vision.safetensors", "vision_model."),
    transformer_part("original"): ("diffusion_models/FramePackI2V_HY.safetensors", ""),
    transformer_part("f1"): ("diffusion_models/FramePack_F1_I2V_HY.safetensors", "model.diffusion_model."),
}
"""Each part's file below ComfyUI's `models`, and what stands before its weights' names."""
FOLDERS = (parts.TOKENIZER, parts.TOKENIZER_2, parts.FEATURE_EXTRACTOR)


def weights_of(part: Part, model: Path) -> Weights:
    """All weights of `part` in a folder of the published layout, by the names of the model's modules."""
    place = model / part.repository / part.folder
    return {name: tensor for file in weight_files(part, place) for name, tensor in load_file(file).items()}


def write_single(file: Path, part: Part, weights: Weights, model: Path, prefix: str = "") -> Path:
    """One safetensors file, with the configuration of its size beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({place(prefix, name): tensor.contiguous() for name, tensor in weights.items()}, file)
    return write_config(file, part, model)


def place(prefix: str, name: str) -> str:
    """Marks of a file stand at its top."""
    return name if name == "scaled_fp8" else prefix + name


def write_config(file: Path, part: Part, model: Path) -> Path:
    shutil.copyfile(model / part.repository / part.folder / part.config, file.with_suffix(".config.json"))
    return file


def write_gguf_file(file: Path, part: Part, weights: Weights, model: Path, kind: str) -> Weights:
    """One GGUF file; returns the numbers that it holds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    meant = write_gguf(file, weights, kind)
    write_config(file, part, model)
    return meant


def comfyui(root: Path, model: Path, change: Callable[[Part, Weights], Weights] = lambda _, weights: weights) -> Path:
    """ComfyUI's folder `models` with all parts of `model`; its framepack.json names what such folders do not hold."""
    for part, (name, prefix) in COMFYUI.items():
        source = part if (model / part.repository).is_dir() else transformer_part("original")
        write_single(root / name, source, change(part, weights_of(source, model)), model, prefix)
    (root / "loras").mkdir()
    (root / "text_encoders" / "put_text_encoder_files_here").touch()
    named = {part.name: str(model / part.repository / part.folder) for part in FOLDERS}
    content = json.loads((model / "framepack.json").read_text())
    content.pop("same_files", None)
    (root / "framepack.json").write_text(json.dumps(content | {"parts": named}))
    return root


def is_matrix(name: str, weight: Tensor) -> bool:
    """What other programs store in 8 bits: matrices of linear layers."""
    return weight.dim() == 2 and name.endswith(".weight") and ("blocks" in name or "layers" in name)


def plain(weights: Weights, dtype: torch.dtype) -> tuple[Weights, Weights]:
    """In float8 without a scale; and the numbers that this means."""
    stored = {name: w.to(dtype) if is_matrix(name, w) else w for name, w in weights.items()}
    return stored, {name: w.float() for name, w in stored.items()}


def scaled(weights: Weights, name: str = "scale_weight") -> tuple[Weights, Weights]:
    """In float8 e4m3 with one scale for each matrix and the marks that come along; and the numbers that this means."""
    stored, meant = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}, {}
    for key, weight in weights.items():
        stored[key], meant[key] = weight, weight.float()
        if is_matrix(key, weight):
            scale = weight.float().abs().amax() / 448
            stored[key] = (weight.float() / scale).to(torch.float8_e4m3fn)
            meant[key] = stored[key].float() * scale
            layer = key.removesuffix(".weight")
            stored[f"{layer}.{name}"] = scale
            if name == "weight_scale":
                mark = json.dumps({"format": "float8_e4m3fn"}).encode()
                stored[f"{layer}.comfy_quant"] = torch.frombuffer(bytearray(mark), dtype=torch.uint8)
    return stored, meant


assert {part.name for part in COMFYUI} >= {transformer_part(name).name for name in VARIANTS}
