"""Settings of ``plan``: those of ``pretrain``, and what a run would be on."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.fields import setting
from codex_ray.config.train import Pretrain

CARDS = ("A100", "H100", "H200", "B200")

# One node failed every 6,300 hours while Llama 3 was trained: 419 unexpected interruptions in 54 days on
# 2,048 nodes (arXiv 2407.21783, section 3.3.4).
NODE_HOURS_BETWEEN_FAILURES = 6300.0


@dataclass(frozen=True)
class Plan(Pretrain):
    """Say what a run of ``pretrain`` would need in memory, time and money; nothing is started."""

    vocabulary_size: int | None = setting(
        None, minimum=5, help="entries of the tokenizer; unset is the corpus's"
    )
    sequence_length: int | None = setting(
        None, minimum=2, help="tokens per row; unset is the corpus's, else model.max_positions"
    )
    card: str = setting(
        "auto",
        choices=("auto", "cpu", *CARDS),
        help="what computes; auto is cpu (this machine, measured) where workers have no GPU, else this "
        "machine's GPU",
    )
    node_price: float | None = setting(None, minimum=0.0, help="price of a node and hour, in any currency")
    node_failure_hours: float = setting(
        NODE_HOURS_BETWEEN_FAILURES, minimum=0.01, help="mean hours between failures of one node"
    )
    recovery_seconds: float = setting(300.0, minimum=0.0, help="from a failure to the next optimizer step")
    disk_bytes_per_second: float | None = setting(
        None, minimum=1.0, help="a node's rate of writing checkpoints; unset is measured, or 2e9 for cards"
    )
    output: str | None = setting(None, help="JSON file for the plan; unset prints only")
