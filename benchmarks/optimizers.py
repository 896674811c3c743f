"""What AdamW and Muon reach in the same time: held-out loss of the quickstart's model after five minutes.

    python -m benchmarks.optimizers [--seconds N]

Each takes its own rates from ``configs/optimizer``; corpus, model, batch, schedule and seed are the same.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.results import Figure, write_result
from codex_ray.config.compose import compose
from codex_ray.corpus.prepare import prepare
from codex_ray.train.driver import pretrain

UNITS = {
    "validation_loss": ("nats/token", "lower"),
    "validation_bits_per_byte": ("bits/byte", "lower"),
    "steps": ("steps", "higher"),
    "tokens_per_second": ("tokens/s", "higher"),
}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="What AdamW and Muon reach in the same time.")
    parser.add_argument("--seconds", type=float, default=300.0, help="training time of each")
    seconds = parser.parse_args().seconds
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        prepare(compose("prepare", values={"output": str(corpus), "track": {"progress": "off"}}))
        for optimizer in ("adamw", "muon"):
            words = ["recipe=quickstart", f"optimizer={optimizer}", f"train.seconds={seconds}"]
            places = {"corpus": str(corpus), "runs": folder, "name": optimizer, "track": {"progress": "off"}}
            result = pretrain(compose("pretrain", words, values=places))
            for name, (unit, better) in UNITS.items():
                figures[f"{optimizer}_{name}"] = Figure(result.figures[name], unit, better)
            print(f"{optimizer}: {result.figures['validation_bits_per_byte']:.4f} bits/byte", flush=True)
    loss = figures["adamw_validation_loss"].value, figures["muon_validation_loss"].value
    assert loss[0] is not None and loss[1] is not None
    figures["muon_over_adamw_validation_loss"] = Figure(loss[1] / loss[0], "ratio", "lower")
    print(write_result("optimizers", figures, extra={"seconds": seconds}))


if __name__ == "__main__":
    main()
