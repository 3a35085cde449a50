"""Names that scripts import from here."""

from diffusers_helper.encoders.hunyuan import encode_prompt_conds, vae_decode, vae_decode_fake, vae_encode

__all__ = ["encode_prompt_conds", "vae_decode", "vae_decode_fake", "vae_encode"]
