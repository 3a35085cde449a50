"""A name that scripts import from here."""

from diffusers_helper.encoders.vision import hf_clip_vision_encode

__all__ = ["hf_clip_vision_encode"]
