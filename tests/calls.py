"""Calls of the tiny transformer, for tests that compare what it computes."""

import torch


def call(transformer):
    """One call on random inputs of the model's sizes."""
    generator, config = torch.Generator().manual_seed(0), transformer.config

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    with torch.inference_mode():
        return transformer(
            hidden_states=normal(1, 16, 3, 8, 8),
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=normal(1, 6, config.text_embed_dim),
            encoder_attention_mask=torch.ones(1, 6, dtype=torch.bool),
            pooled_projections=normal(1, config.pooled_projection_dim),
            guidance=torch.tensor([10000.0]),
            image_embeddings=normal(1, 4, config.image_proj_dim),
            return_dict=False,
        )[0]
