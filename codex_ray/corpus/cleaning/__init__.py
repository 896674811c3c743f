"""Cleaning one document: decoding and mending it, judging it by rules, and cutting what should go."""
