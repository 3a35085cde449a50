"""Composition: the program, its page and its processes."""
