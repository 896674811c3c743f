"""What the loss of tokens is divided by, which decides how much long answers weigh against short ones.

Shape legend: T tokens that count.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from codex_ray.errors import ConfigError
from codex_ray.train.objectives.sequences import Sequences

OVER = ("rows", "tokens", "length", "nothing")


@dataclass(frozen=True)
class Normalisation:
    """How tokens' losses become one number.

    Attributes:
        over: ``rows`` is the mean of each row's mean, so that rows weigh the same (GRPO, arXiv 2402.03300);
            ``tokens`` the mean over all tokens, so that tokens do (DAPO, arXiv 2503.14476); ``length`` the
            mean over rows of sums divided by one constant, without favour for short wrong answers (Dr. GRPO,
            arXiv 2503.20783); ``nothing`` the plain sum (TTT-Discover, arXiv 2601.16175).
        length: that constant, such as the most tokens of a completion.
    """

    over: str = "rows"
    length: int = 0

    def __post_init__(self) -> None:
        if self.over not in OVER or (self.over == "length") != (self.length > 0):
            raise ConfigError(
                f"normalisation over {self.over} with length={self.length} cannot be; it is over one of "
                f"{', '.join(OVER)}, and over length alone takes a length above 0"
            )

    def weight(self, rows: Sequences) -> int:
        """This micro-batch's share of what the global loss is divided by; 0 where that is nothing."""
        if self.over == "nothing":
            return 0
        return int(rows.mask_BS.sum()) if self.over == "tokens" else rows.real

    def total(self, rows: Sequences, losses_T: Tensor) -> Tensor:
        """Add tokens' losses up, to be divided by the global weight."""
        if self.over == "rows":
            losses_T = losses_T / rows.counts[rows.owners]
        return losses_T.sum() / (self.length or 1)
