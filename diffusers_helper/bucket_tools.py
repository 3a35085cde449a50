"""A name that scripts import from here."""

from diffusers_helper.core.buckets import find_nearest_bucket

__all__ = ["find_nearest_bucket"]
