"""The golden models and videos, ready to sample: what several tests share."""

from functools import cache

import torch
from diffusers import AutoencoderKLHunyuanVideo

from diffusers_helper.framepack.engine import Conditions
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from tests.golden import golden_meta, load_golden


@cache
@torch.inference_mode(False)  # or who asks first in that mode makes it useless for others
def golden_transformer(dtype: torch.dtype = torch.float32) -> HunyuanVideoTransformer3DModelPacked:
    model = HunyuanVideoTransformer3DModelPacked(**golden_meta()["transformer_config"])
    model.load_state_dict(load_golden("transformer"))
    return model.eval().to(dtype)


@cache
@torch.inference_mode(False)  # or who asks first in that mode makes it useless for others
def golden_vae() -> AutoencoderKLHunyuanVideo:
    vae = AutoencoderKLHunyuanVideo(**golden_meta()["vae_config"])
    vae.load_state_dict(load_golden("vae"))
    return vae.eval()


def golden_conditions(name: str) -> Conditions:
    """The conditions of a golden video, texts padded to the length it was made with."""
    video = load_golden(f"video_{name}")
    length = golden_meta()["video"][name]["text_pad_length"]

    def padded(key):
        if key not in video:
            return None, None
        embeds = video[key]
        mask = torch.arange(length).unsqueeze(0) < embeds.shape[1]
        return torch.nn.functional.pad(embeds, (0, 0, 0, length - embeds.shape[1])), mask

    prompt, prompt_mask = padded("prompt_embeds")
    negative, negative_mask = padded("negative_prompt_embeds")
    return Conditions(
        prompt_embeds=prompt,
        prompt_mask=prompt_mask,
        pooled=video["prompt_pooler"],
        negative_embeds=negative,
        negative_mask=negative_mask,
        negative_pooled=video.get("negative_prompt_pooler"),
        image_embeddings=video["image_embeddings"],
    )
