"""Test-time training on one hard problem: archive, advantages, problems with exact verifiers."""
