"""The version of this program's numbers: one request gives one video as long as it and the surroundings stay."""

NUMERICS_VERSION = 1
"""Raise it with every change of the code that changes latents or pixels by more than rounding.

An unfinished video that was begun with another version says so before it goes on, and a batch begins it anew. A change
that forgets this fails in tests/test_numerics.py.
"""
