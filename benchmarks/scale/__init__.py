"""Generated sources with known truth, for ``benchmarks.prepare_scale``."""
