"""Sampling from causal language models: a batched sampler with a key/value cache, and the generate verb."""
