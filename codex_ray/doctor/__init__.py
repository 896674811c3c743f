"""``codex-ray doctor``: what a machine or a cluster lacks, one line each, with the remedy."""
