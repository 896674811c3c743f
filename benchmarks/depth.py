"""Do signals and gradients keep their size through many layers? The negative control of mHC.

    python -m benchmarks.depth [--layers N] [--steps N]

Decoders of many narrow layers learn the bytes of this Python's standard library under each kind of
residual, side by side: same data, order, rate and seed. The composite of all mixing matrices is measured as
training goes on (largest row sum: growth forward; largest column sum: growth backward), and at the end after
every sublayer, as in the paper's figures 2 and 3. Beside them, without training, composites of drawn
matrices: I + 0.1 N for unconstrained connections; of drawn logits, Sinkhorn's matrices and mixtures of
permutations for the constrained. Writes the figures and a plot.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import FOLDER, Figure, machine_name, write_result
from codex_ray.config.model import Model, Residual
from codex_ray.model import build_model, next_token_loss_sum
from codex_ray.model.gains import mixing_matrices
from codex_ray.model.mixing import permutation_matrices, sinkhorn

TRAINED = ("hc", "mhc", "mhc_permutation")
BYTES, LENGTH, ROWS, WIDTH, STREAMS = 256, 128, 8, 48, 4
RATE, WARM_UP, EVERY = 4e-3, 20, 20
DRAWN_DEPTH, TOKENS, STD = 122, 512, 1.0
BOUND = 1.6  # of mHC's composite, as its paper observed in a model of 27 B parameters


def main() -> None:
    """Measure, draw and write the result file."""
    parser = argparse.ArgumentParser(description="Gains of composite mixing matrices over depth.")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    text = _text()
    trained = {kind: _train(kind, text, arguments.layers, arguments.steps) for kind in TRAINED}
    drawn = {kind: _gains(matrices) for kind, matrices in _drawn().items()}
    figures = {}
    for kind, run in trained.items():
        aim = None if kind == "hc" else BOUND
        worst = max(max(gains) for gains in run["gains"])
        figures[f"{kind}_gain_of_{2 * arguments.layers}_trained"] = Figure(worst, "ratio", "lower", aim=aim)
        figures[f"{kind}_loss_bits_per_byte"] = Figure(run["losses"][-1], "bits", "lower")
    for kind, gains in drawn.items():
        aim = None if kind == "hc" else BOUND
        worst = float(np.max(gains))
        figures[f"{kind}_gain_of_{DRAWN_DEPTH}_drawn"] = Figure(worst, "ratio", "lower", aim=aim)
    _draw(trained, drawn, FOLDER / f"depth.{machine_name()}.png")
    print(write_result("depth", figures, extra={"trained": trained}))


def _text() -> Tensor:
    """Join the standard library's sources, as byte values."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    joined = b"\n".join(file.read_bytes() for file in files)
    return torch.from_numpy(np.frombuffer(joined, dtype=np.uint8).astype(np.int64))


def _train(kind: str, text: Tensor, layers: int, steps: int) -> dict[str, Any]:
    shape = Model(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        layers=layers,
        heads=3,
        key_value_heads=3,
        head_size=16,
        residual=Residual(kind=kind, streams=STREAMS),
    )
    special = {"bos": 1, "eos": 2, "pad": 3}
    model = build_model(shape, vocabulary_size=BYTES, sequence_length=LENGTH, seed=1, special_ids=special)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    draw = torch.Generator().manual_seed(2)
    found: dict[str, Any] = {"steps": [], "gains": [], "losses": []}
    for step in range(steps + 1):
        starts = torch.randint(len(text) - LENGTH, (ROWS,), generator=draw).tolist()
        ids_BS = torch.stack([text[start : start + LENGTH] for start in starts])
        if step % EVERY == 0 or step == steps:
            by_depth = _gains(mixing_matrices(model, ids_BS)[0])
            found["steps"].append(step)
            found["gains"].append([float(gain[-1]) for gain in by_depth])
            found["by_depth"] = [gain.tolist() for gain in by_depth]
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / WARM_UP)
        loss = next_token_loss_sum(model, ids_BS) / (ROWS * (LENGTH - 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % EVERY == 0 or step == steps:
            found["losses"].append(loss.item() / np.log(2))
            print(kind, step, f"{found['losses'][-1]:.3f} bits", found["gains"][-1], flush=True)
    return found


def _drawn() -> dict[str, list[Tensor]]:
    draw = torch.Generator().manual_seed(3)
    n, matrices = STREAMS, permutation_matrices(STREAMS)

    def logits(count: int) -> Tensor:
        return STD * torch.randn(count, TOKENS, generator=draw)

    return {
        "hc": [torch.eye(n) + 0.1 * torch.randn(TOKENS, n, n, generator=draw) for _ in range(DRAWN_DEPTH)],
        "mhc": [
            sinkhorn(logits(n * n).view(n, n, -1), 20, 1e-6).permute(2, 0, 1) for _ in range(DRAWN_DEPTH)
        ],
        "mhc_permutation": [
            (logits(len(matrices)).softmax(0).t() @ matrices).view(-1, n, n) for _ in range(DRAWN_DEPTH)
        ],
    }


def _gains(matrices: list[Tensor]) -> tuple[Any, Any]:
    """Return the forward and the backward gain after every sublayer, averaged over tokens."""
    composite = torch.eye(STREAMS).expand_as(matrices[0])
    forward, backward = [], []
    for matrix in matrices:
        composite = matrix.float() @ composite
        forward.append(composite.sum(-1).abs().amax(-1).mean().item())
        backward.append(composite.sum(-2).abs().amax(-1).mean().item())
    return np.array(forward), np.array(backward)


def _draw(trained: dict[str, dict[str, Any]], drawn: dict[str, tuple[Any, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(13, 4), sharey=True)
    titles = ("while training", "after training, by depth", f"drawn matrices (logit std {STD:g}), by depth")
    for panel, title in zip(panels, titles, strict=True):
        panel.set(title=title, yscale="log", xlabel="sublayers" if "depth" in title else "optimizer steps")
        panel.axhline(BOUND, color="grey", linewidth=0.8, linestyle=":")
    for number, (kind, run) in enumerate(trained.items()):
        for style, way in (("-", 0), ("--", 1)):
            colour = f"C{number}"
            label = f"{kind}, {('forward', 'backward')[way]}"
            panels[0].plot(
                run["steps"], [gain[way] for gain in run["gains"]], style, color=colour, label=label
            )
            panels[1].plot(range(1, len(run["by_depth"][way]) + 1), run["by_depth"][way], style, color=colour)
            panels[2].plot(range(1, DRAWN_DEPTH + 1), drawn[kind][way], style, color=colour)
    panels[0].set_ylabel("gain of the composite")
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
