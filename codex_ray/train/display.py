"""What the user sees of a running training: its newest figures, and the sentences that workers tell."""

from __future__ import annotations

from typing import Any

from codex_ray.track.progress import Progress

# What is shown of a run that learns from rollouts, and under what name.
OF_ROLLOUTS = {
    "discover/best": "best",
    "discover/gap": "gap",
    "discover/valid_share": "valid",
    "reward": "reward",
    "discover/beta": "beta",
    "entropy": "entropy",
    "reference_kl": "KL",
    "rollout/idle_ratio": "samplers idle",
    "trainer/idle_ratio": "trainers idle",
}


class Display:
    """Shows rows of metrics and workers' messages on a progress display.

    Attributes:
        step: the newest optimizer step.
    """

    def __init__(self, progress: Progress) -> None:
        self.step = 0
        self._progress = progress
        self._bits_per_byte: float | None = None
        self._nodes: dict[int, str] = {}

    def rows(self, rows: list[dict[str, Any]]) -> None:
        """Show the newest of some rows."""
        last = rows[-1]
        self.step = last["step"]
        figures = {"loss": last["loss"], "tokens/s": last["tokens_per_second"]}
        measured = [row for row in rows if "validation_bits_per_byte" in row]
        if measured:
            self._bits_per_byte = measured[-1]["validation_bits_per_byte"]
        if self._bits_per_byte is not None:
            figures["bits/byte"] = self._bits_per_byte
        figures |= {label: last[name] for name, label in OF_ROLLOUTS.items() if name in last}
        self._progress.update(completed=self.step, **figures)

    def validated(self, rows: list[dict[str, Any]]) -> None:
        """Show validations that came after their steps."""
        self._bits_per_byte = rows[-1].get("validation_bits_per_byte", self._bits_per_byte)
        self._progress.update(**{"bits/byte": self._bits_per_byte})

    def message(self, message: dict[str, Any]) -> None:
        """Show one message, if it is for the user."""
        kind = message["kind"]
        if kind in ("note", "spike"):
            self._progress.note(message["text"])
        elif kind == "worker":
            self._nodes[message["rank"]] = message["node"]
        elif kind == "slow":
            self._progress.note(slow_sentence(message, self._nodes.get(message["rank"], "an unknown node")))
        elif kind == "plan":
            self._progress.update(total=message["total_steps"])


def slow_sentence(message: dict[str, Any], node: str) -> str:
    """Say which rank is slow, and where it runs."""
    return (
        f"rank {message['rank']} on {node} is slow: until step {message['step']} its forward pass took "
        f"{message['seconds']:.3g} s a step, {message['seconds'] / message['median']:.1f} times the ranks' "
        "median; look at what else runs on that node, or take it out of the cluster"
    )
