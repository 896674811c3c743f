"""Searching the settings of training runs with Ray Tune: the space, the trials, the sweep and its report."""
