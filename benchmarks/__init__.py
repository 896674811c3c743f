"""Measurements against peers: ``python -m benchmarks.NAME`` measures one thing and writes one JSON file."""
