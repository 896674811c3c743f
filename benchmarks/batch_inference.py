"""A file of prompts completed by the pool of actors, and by Ray Data with the same sampler.

    python -m benchmarks.batch_inference [--prompts N] [--turns N]

Both read the same JSON lines and write their completions as JSON lines, on two actors with a thread each, in
one Ray session; the model is a decoder of 2.7 M parameters with random weights in float32, and a sixteenth of
its tokens end a completion, so that lengths differ as answers do. Ray Data keeps the order, and reads
the file in as many blocks as there are batches, of 64 prompts and of 256: the faster counts. The completions
must be equal. A turn of few prompts tells what starting takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, write_result
from codex_ray.cluster.session import open_session
from codex_ray.config.common import Cluster, Device
from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.config.model import Model, Residual
from codex_ray.config.rollout import Spread
from codex_ray.config.use import Generate
from codex_ray.model import build_model
from codex_ray.rollout.batches import draw_seed, lines_of
from codex_ray.rollout.generate import generate, prompt_ids
from codex_ray.rollout.load import load_with_tokenizer
from codex_ray.rollout.verb import generate_verb
from codex_ray.tokenizer import Tokenizer, train_tokenizer

ACTORS, ROWS, LONGEST, FEW, SEED = 2, 32, 64, 64, 1234
VOCABULARY, ENDING = 2048, 16
BATCHES = (64, 256)
SHAPE = Model(
    hidden_size=192,
    intermediate_size=512,
    layers=6,
    heads=6,
    key_value_heads=2,
    head_size=32,
    residual=Residual(streams=2),
)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="Completing a file: the pool beside Ray Data.")
    parser.add_argument("--prompts", type=int, default=4000, help="prompts of a turn")
    parser.add_argument("--turns", type=int, default=3, help="turns, each of all ways")
    arguments = parser.parse_args()
    sizes = (FEW, arguments.prompts)
    ways: dict[str, Callable[[Path, int], Iterator[str]]] = {"pool": _pool}
    ways |= {f"ray_data_{batch}": _ray_data(batch) for batch in BATCHES}
    seconds: dict[tuple[str, int], list[float]] = {(way, size): [] for way in ways for size in sizes}
    with tempfile.TemporaryDirectory() as temporary, open_session(Cluster(logical_cpus=ACTORS + 2)):
        folder = Path(temporary)
        _write_model(folder)
        for size in sizes:
            _write_prompts(folder, size)
        for turn in range(arguments.turns):
            for size in sizes:
                found = {
                    way: _timed(complete, folder, size, seconds[way, size]) for way, complete in ways.items()
                }
                if len(set(map(tuple, found.values()))) > 1:
                    raise SystemExit(f"the completions of {size} prompts differ")
            print(
                f"turn {turn}: { ({way: round(times[-1], 1) for way, times in seconds.items()}) }", flush=True
            )
    print(write_result("batch_inference", _figures(seconds, arguments.prompts), {"turns": arguments.turns}))


def _figures(seconds: dict[tuple[str, int], list[float]], prompts: int) -> dict[str, Figure]:
    median = {way: statistics.median(times) for way, times in seconds.items()}
    best = min((f"ray_data_{batch}" for batch in BATCHES), key=lambda way: median[way, prompts])
    figures = {
        "pool_over_ray_data": Figure(median[best, prompts] / median["pool", prompts], "ratio", "higher", 1.0)
    }
    for way in ("pool", *(f"ray_data_{batch}" for batch in BATCHES)):
        working = median[way, prompts] - median[way, FEW]
        figures[f"{way}_prompts_per_second"] = Figure(prompts / median[way, prompts], "prompts/s", "higher")
        figures[f"{way}_prompts_per_second_once_started"] = Figure(
            (prompts - FEW) / working, "prompts/s", "higher"
        )
        figures[f"{way}_seconds_of_{FEW}"] = Figure(median[way, FEW], "s", "lower")
    return figures


def _timed(
    complete: Callable[[Path, int], Iterator[str]], folder: Path, size: int, times: list[float]
) -> list[str]:
    began = time.perf_counter()
    found = list(complete(folder, size))
    times.append(time.perf_counter() - began)
    return found


def _write_model(folder: Path) -> None:
    texts = [path.read_text() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-c]*.py"))]
    train_tokenizer(texts, TokenizerSettings(vocabulary_size=VOCABULARY), folder, SEED)
    tokenizer = Tokenizer.load(folder)
    size, special = tokenizer.vocabulary_size, tokenizer.special_ids
    build_model(
        SHAPE, vocabulary_size=size, sequence_length=128, seed=1, special_ids=special
    ).save_pretrained(folder)


def _write_prompts(folder: Path, count: int) -> None:
    rows = ({"number": n, "prompt": f"def f{n}(x" + ", y" * (n % 5)} for n in range(count))
    _prompts(folder, count).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _prompts(folder: Path, count: int) -> Path:
    return folder / f"prompts-{count}.jsonl"


def _settings(folder: Path, size: int) -> Generate:
    return Generate(
        model=str(folder),
        prompts_file=str(_prompts(folder, size)),
        output=str(folder / "pool.jsonl"),
        max_new_tokens=LONGEST,
        stop_ids=list(range(ENDING, VOCABULARY, ENDING)),
        temperature=1.0,
        top_p=1.0,
        batch_rows=ROWS,
        spread=Spread(actors=ACTORS),
        seed=SEED,
        compute=Device("cpu", "float32"),
    )


def _pool(folder: Path, size: int) -> Iterator[str]:
    settings = _settings(folder, size)
    generate_verb(settings)
    assert settings.output is not None
    return map(_shown, Path(settings.output).read_text().splitlines())


class Completer:
    """What Ray Data's actors hold."""

    def __init__(self, settings: Generate) -> None:
        import torch

        torch.set_num_threads(1)
        self._settings = settings
        self._model, self._tokenizer = load_with_tokenizer(settings.model, None, settings.compute)
        self._model.requires_grad_(False)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Complete a batch of prompts."""
        settings = self._settings
        texts, numbers = list(batch["prompt"]), [int(number) for number in batch["number"]]
        completions = generate(
            self._model,
            prompt_ids(self._tokenizer, texts),
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=[draw_seed(settings.seed, number) for number in numbers],
            stop_ids=settings.stop_ids,
            tokenizer=self._tokenizer,
            batch_rows=settings.batch_rows,
        )
        rows = [{"number": number, "prompt": text} for number, text in zip(numbers, texts, strict=True)]
        return {"line": lines_of(rows, completions).splitlines()}


def _ray_data(batch: int) -> Callable[[Path, int], Iterator[str]]:
    def complete(folder: Path, size: int) -> Iterator[str]:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        rows = ray.data.read_json(str(_prompts(folder, size)), lines=True).repartition(
            max(ACTORS, size // batch)
        )
        completed = rows.map_batches(
            Completer,
            fn_constructor_args=(_settings(folder, size),),
            batch_size=batch,
            compute=ray.data.ActorPoolStrategy(size=ACTORS),
            num_cpus=1,
        )
        with (folder / "ray_data.jsonl").open("w") as stream:
            stream.writelines(f"{row['line']}\n" for row in completed.iter_rows())
        return map(_shown, (folder / "ray_data.jsonl").read_text().splitlines())

    return complete


def _shown(line: str) -> str:
    """Return what must be equal: sums of log-probabilities differ in their last digits."""
    record = json.loads(line)
    return json.dumps([record["number"], record["completion"], record["finish_reason"], record["tokens"]])


if __name__ == "__main__":
    main()
