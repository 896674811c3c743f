"""How often the likeliest tokens were right, and whether a model is as sure as it is right."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOPS = (1, 5, 10)
BINS = 15


def _zeros(count: int) -> NDArray[np.float64]:
    return np.zeros(count)


@dataclass
class Tally:
    """Counts over scored tokens.

    Attributes:
        tokens: how many.
        top: of them, whose true token was among the 1, 5 and 10 likeliest.
        counts, sure, right: by confidence in the likeliest token, in fifteen equal bins from 0 to 1: tokens,
            the sum of confidences, and how often the likeliest was the true one.
    """

    tokens: int = 0
    top: NDArray[np.float64] = field(default_factory=lambda: _zeros(len(TOPS)))
    counts: NDArray[np.float64] = field(default_factory=lambda: _zeros(BINS))
    sure: NDArray[np.float64] = field(default_factory=lambda: _zeros(BINS))
    right: NDArray[np.float64] = field(default_factory=lambda: _zeros(BINS))

    def add(self, scores_KV: Tensor, targets_K: Tensor, total_K: Tensor) -> None:
        """Count tokens.

        A true token that others equal counts as behind them half: as if ties were broken by a coin.

        Args:
            scores_KV: logits in float32; ``targets_K``: the true tokens.
            total_K: the logits' log-sum-exp.
        """
        if not len(targets_K):
            return
        chosen_K1 = scores_KV.gather(-1, targets_K[:, None])
        above_K = (scores_KV > chosen_K1).sum(-1)
        ties_K = (scores_KV == chosen_K1).sum(-1)
        shares = [((top - above_K) / ties_K).clamp(0, 1) for top in TOPS]
        confidence_K = (scores_KV.amax(-1) - total_K).exp().clamp(0, 1).double()
        bins_K = (confidence_K * BINS).long().clamp(max=BINS - 1)
        self.tokens += len(targets_K)
        self.top += np.array([float(share.double().sum()) for share in shares])
        ones_K = torch.ones_like(confidence_K)
        for kept, weights_K in ((self.counts, ones_K), (self.sure, confidence_K), (self.right, shares[0])):
            kept += torch.bincount(bins_K, weights=weights_K.double(), minlength=BINS).cpu().numpy()

    @property
    def calibration_error(self) -> float:
        """Mean distance of confidence and accuracy over the bins, by tokens (arXiv 1706.04599, eq. 3)."""
        return float(np.abs(self.sure - self.right).sum() / max(1, self.tokens))

    def figures(self) -> dict[str, float]:
        """Return the shares of true tokens among the likeliest, and the calibration error."""
        found = {
            f"accuracy_top_{top}": float(n) / max(1, self.tokens)
            for top, n in zip(TOPS, self.top, strict=True)
        }
        return found | {"calibration_error": self.calibration_error}

    def bins(self) -> list[dict[str, float]]:
        """Return each bin that holds tokens: its tokens, mean confidence and accuracy."""
        return [
            {"tokens": float(count), "confidence": float(sure / count), "accuracy": float(right / count)}
            for count, sure, right in zip(self.counts, self.sure, self.right, strict=True)
            if count
        ]
