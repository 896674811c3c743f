"""Typed settings per verb: composed by Hydra from ``configs/``, overridden by words, checked, saved.

``compose.compose`` makes settings, ``check.check`` holds the rules between them, ``saved.save`` writes them.
Imports neither torch nor Ray.
"""
