"""Measuring a model on held-out text: likelihood, compressors and n-grams beside it, completed functions."""
