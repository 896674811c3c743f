"""One process that reads rows by one loader, for ``benchmarks.loader``."""
