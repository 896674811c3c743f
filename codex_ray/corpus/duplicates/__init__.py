"""Exact and near-duplicates over all documents of a corpus."""
