"""What weights on their way are: names, shapes and bytes, which a process without PyTorch can pass on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Layout:
    """What parameters the sampling model has: shape and precision by name."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]

    @staticmethod
    def of(model: nn.Module) -> Layout:
        """Look at a model."""
        parameters = dict(model.named_parameters())
        return Layout(
            {name: tuple(one.shape) for name, one in parameters.items()},
            {name: str(one.dtype).removeprefix("torch.") for name, one in parameters.items()},
        )


@dataclass(frozen=True)
class Packed:
    """Published weights: bytes by name, which the object store keeps as they are, and their checksum."""

    arrays: dict[str, NDArray[np.uint8]]
    checksum: int

    @property
    def bytes(self) -> int:
        """Size."""
        return sum(array.nbytes for array in self.arrays.values())
