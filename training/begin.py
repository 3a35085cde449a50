"""The parts of a model folder as weights to train on from: the way back from `export`."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffusers import AutoencoderKLHunyuanVideo
from torch import nn
from transformers import CLIPTextModel, LlamaModel, SiglipVisionModel

from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from training.checkpoint import has_weights, save_weights
from training.family import HUNYUAN_FOLDER, ORIGINAL_FOLDER, REDUX_FOLDER
from training.loop import say
from training.texts import Tokenizers
from training.train_text import NAME as TEXT_NAME
from training.train_text import TextTask
from training.train_transformer import NAME, TrainModel
from training.train_vae import NAME as VAE_NAME


def begin(folder: Path, models: Path) -> None:
    """Put into `folder` whatever it lacks of the tokenizers and weights of the model folder `models`.

    The text encoders' heads, which no model folder holds, begin at zero, so that they first learn from the encoders
    and only then change them.
    """
    hunyuan = models / HUNYUAN_FOLDER
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(hunyuan / name, folder / name, dirs_exist_ok=True)
    if not has_weights(folder, VAE_NAME):
        save_weights(AutoencoderKLHunyuanVideo.from_pretrained(hunyuan / "vae").state_dict(), folder, VAE_NAME)
    if not has_weights(folder, TEXT_NAME):
        task = TextTask(Tokenizers.load(folder))
        task.encoders.llama.load_state_dict(LlamaModel.from_pretrained(hunyuan / "text_encoder").state_dict())
        task.encoders.clip.load_state_dict(CLIPTextModel.from_pretrained(hunyuan / "text_encoder_2").state_dict())
        for parameter in task.heads.parameters():
            nn.init.zeros_(parameter)
        save_weights(task.state_dict(), folder, TEXT_NAME)
    if not has_weights(folder, NAME):
        model = TrainModel()
        transformer = HunyuanVideoTransformer3DModelPacked.from_pretrained(models / ORIGINAL_FOLDER)
        model.transformer.load_state_dict(transformer.state_dict())
        siglip = SiglipVisionModel.from_pretrained(models / REDUX_FOLDER / "image_encoder")
        model.siglip.load_state_dict(siglip.state_dict())
        save_weights(model.state_dict(), folder, NAME)
    say(f"{folder} holds every part of {models}")
