"""Other ways to run the same training, one process per rank, for ``benchmarks.stack``."""
