"""Prompts and pictures as conditions; pixels and latents."""
