"""Samplers and the adapters between them and the transformer."""
