"""Trials as Ray's own documentation writes them, for comparison: a Tune function that runs Ray Train.

Each has one worker that makes the same model, reads the same rows and does the same few steps with PyTorch's
AdamW; it writes no checkpoint, no report and no records.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


def run_trials(corpus: str, folder: Path, trials: int, *, steps: int, batch_tokens: int, model: str) -> float:
    """Run trials two at a time; returns the seconds from the first one's beginning to the last one's end."""
    import ray
    from ray import tune

    times: list[float] = []

    class Clock(tune.Callback):
        """Notes when trials begin and end."""

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            times.append(time.monotonic())

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            times.append(time.monotonic())

    settings = {"corpus": corpus, "steps": steps, "batch_tokens": batch_tokens, "model": model}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        results = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_trial, folder=str(folder), settings=settings), {"cpu": 0.01}
            ),
            param_space={"rate": tune.grid_search([1e-3 * (1 + number) for number in range(trials)])},
            tune_config=tune.TuneConfig(max_concurrent_trials=2),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[Clock()]),
        ).fit()
        assert results.num_errors == 0, results.errors
        if len(times) < 2 * trials:  # Ray Tune ends its trials at Ctrl-C, and says nothing
            raise KeyboardInterrupt
        return times[-1] - times[0]
    finally:
        ray.shutdown()


def _trial(config: dict[str, Any], folder: str, settings: dict[str, Any]) -> None:
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    name = tune.get_context().get_trial_id()
    trainer = TorchTrainer(
        _train,
        train_loop_config={**settings, **config},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name=name, storage_path=folder),
    )
    tune.report({"loss": trainer.fit().return_value})


def _train(config: dict[str, Any]) -> float:
    import numpy as np
    import torch

    from codex_ray.config.compose import compose
    from codex_ray.corpus.direct import RowReader
    from codex_ray.corpus.manifest import Manifest
    from codex_ray.model import build_model
    from codex_ray.model.loss import next_token_loss_sum
    from codex_ray.tokenizer import Tokenizer

    torch.set_num_threads(1)
    manifest = Manifest.load(Path(config["corpus"]))
    tokenizer = Tokenizer.load(manifest.folder / "tokenizer")
    model = build_model(
        compose("pretrain", [f"model={config['model']}", "train.steps=1"]).model,
        vocabulary_size=tokenizer.vocabulary_size,
        sequence_length=manifest.sequence_length,
        seed=1,
        special_ids=tokenizer.special_ids,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["rate"])
    reader, rows = (
        RowReader(manifest, "train", cached_groups=1),
        config["batch_tokens"] // manifest.sequence_length,
    )
    loss = torch.zeros(())
    for step in range(config["steps"]):
        ids = torch.from_numpy(reader.take(np.arange(step * rows, (step + 1) * rows)).astype("int64"))
        loss = next_token_loss_sum(model, ids) / ids.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss)
