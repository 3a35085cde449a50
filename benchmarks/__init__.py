"""Measurements, each a module to run: `python -m benchmarks.step`. None is imported by the product."""
