"""Rules for batches and sequences that grow while a run goes on."""

from __future__ import annotations

from codex_ray.config.train import Training
from codex_ray.errors import ConfigError


def refuse_ramps(training: Training, prefix: str = "") -> None:
    """Check what can be known of the ramps without a corpus.

    Raises:
        ConfigError: a pair is not two positive numbers, or the run's end would be decided from its pace.
    """
    for name, value, fewest in (("batch_ramp", "tokens", 1), ("sequence_ramp", "length", 2)):
        for pair in getattr(training, name):
            if len(pair) != 2 or pair[0] < fewest or pair[1] < 1:
                raise ConfigError(
                    f"{prefix}train.{name} holds {pair}, which is no pair [{value}, batches] of numbers from "
                    f"{fewest} and 1 up; give pairs such as {prefix}train.{name}=[[128,100],[256,100]]"
                )
    if training.batch_ramp and training.seconds is not None:
        raise ConfigError(
            f"{prefix}train.batch_ramp cannot go with {prefix}train.seconds={training.seconds:g}, whose last "
            f"step is decided from the pace so far; give {prefix}train.steps or {prefix}train.epochs"
        )


def refuse_lengths(training: Training, row_length: int, prefix: str = "") -> None:
    """Check that the corpus' rows can be cut into the sequences that are asked for.

    Raises:
        ConfigError: naming the nearest length that can be had.
    """
    for length, _ in training.sequence_ramp:
        if row_length % length:
            fitting = (part for part in range(2, row_length + 1) if row_length % part == 0)
            nearest = min(fitting, key=lambda part: abs(part - length))
            raise ConfigError(
                f"{prefix}train.sequence_ramp wants sequences of {length} tokens, and the corpus' rows of "
                f"{row_length} cannot be cut into such; give {nearest}"
            )
