"""Benchmarks of metatele; `python -m benchmarks` runs them."""
