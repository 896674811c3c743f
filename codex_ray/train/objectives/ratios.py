"""Ratios of probabilities between policies, at single tokens, and divergences estimated from them.

Shape legend: T tokens that count.
"""

from __future__ import annotations

from torch import Tensor

from codex_ray.errors import ConfigError


def ratios(logprob_T: Tensor, before_T: Tensor, most: float = float("inf")) -> Tensor:
    """Return p / p_before at each token, at most ``most``."""
    return (logprob_T - before_T).exp().clamp(max=most)


def clipped(ratio_T: Tensor, advantage_T: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return PPO's loss (arXiv 1707.06347, eq. 7) at each token, and where clipping stopped its gradient.

    Args:
        ratio_T: between the policies; advantage_T: of each token.
        low: the ratio is held above ``1 - low``; high: and below ``1 + high``.
    """
    free_T = -ratio_T * advantage_T
    held_T = -ratio_T.clamp(1.0 - low, 1.0 + high) * advantage_T
    return free_T.maximum(held_T), held_T > free_T


def kl_estimate(logprob_T: Tensor, reference_T: Tensor, kind: str) -> Tensor:
    """Estimate KL(policy || reference) from the sampled tokens alone (Schulman 2020); a loss of its own.

    ``k3`` is GRPO's: never negative, but its gradient in expectation is that of KL(reference || policy).
    ``k2`` has the gradient of KL(policy || reference). The plain log-ratio would have none.

    Raises:
        ConfigError: there is no such estimate.
    """
    apart_T = reference_T - logprob_T
    if kind == "k3":
        return apart_T.exp() - apart_T - 1.0
    if kind == "k2":
        return 0.5 * apart_T.square()
    raise ConfigError(f"kl={kind} is unknown; give k2 or k3")
