"""Measurements side by side with the alternative: `python -m benchmarks [NAME ...]`."""
