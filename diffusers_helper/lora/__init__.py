"""LoRA files: read by every name that people's files have, and added to the weights of the transformer."""
