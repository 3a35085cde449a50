"""LoRA files made in a test: a header, and zeros as factors."""

import json
import struct
from pathlib import Path

WIDTH = 8


def write_lora(
    path: Path, rank: int = 4, metadata: dict[str, str] | None = None, width: int = WIDTH, **other: list[int]
) -> Path:
    """Write a file with one pair of factors of `rank`, and `other` weights by name and shape, as safetensors."""
    module = "lora_unet_transformer_blocks_0_attn_to_q"
    shapes = {f"{module}.lora_down.weight": [rank, width], f"{module}.lora_up.weight": [width, rank]} if rank else {}
    return write_weights(path, shapes | other, metadata)


def write_weights(path: Path, shapes: dict[str, list[int]], metadata: dict[str, str] | None = None) -> Path:
    """Write weights of zeros by their shapes."""
    header, end = {"__metadata__": metadata or {}}, 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return path
