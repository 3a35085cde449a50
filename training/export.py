"""Trained parts to a model folder in the layout of the published repositories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import SiglipImageProcessorPil

from training.family import F1_FOLDER, HUNYUAN_FOLDER, IMAGE_SIZE, ORIGINAL_FOLDER, REDUX_FOLDER
from training.loop import say
from training.texts import Tokenizers
from training.train_text import load_encoders
from training.train_transformer import load_model, load_vae

SHARD = "14MB"
DEFAULTS = {
    "title": "Tiny: moves the camera over your picture",
    "trained": True,
    "resolution": 128,
    "steps": 16,
    "guidance_scale": 10.0,
    "same_files": {F1_FOLDER: ORIGINAL_FOLDER},
}


def export(folder: Path, output: Path, *, defaults: dict[str, Any] | None = None) -> None:
    """Write what was trained in `folder` as the model folder `output`, in half precision.

    Both variants use the same transformer, which learned both section layouts; it is written once.
    """
    words = Tokenizers.load(folder)
    encoders, model = load_encoders(folder, words), load_model(folder)
    hunyuan, redux = output / HUNYUAN_FOLDER, output / REDUX_FOLDER
    for repository in (ORIGINAL_FOLDER, F1_FOLDER, HUNYUAN_FOLDER, REDUX_FOLDER):
        shutil.rmtree(output / repository, ignore_errors=True)
    model.transformer.bfloat16().save_pretrained(output / ORIGINAL_FOLDER, max_shard_size=SHARD)
    load_vae(folder).half().save_pretrained(hunyuan / "vae")
    encoders.llama.half().save_pretrained(hunyuan / "text_encoder")
    encoders.clip.half().save_pretrained(hunyuan / "text_encoder_2")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(folder / name, hunyuan / name)
    model.siglip.half().save_pretrained(redux / "image_encoder")
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    SiglipImageProcessorPil(size=size).save_pretrained(redux / "feature_extractor")
    (output / "framepack.json").write_text(json.dumps(DEFAULTS | (defaults or {}), indent=2) + "\n", "utf-8")
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    say(f"{output}: {total / 1e6:.1f} MB")
