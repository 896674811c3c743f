"""A file of prompts completed through Ray Data, and by bare loops of the same sampler.

    python -m benchmarks.batch_inference [--prompts N] [--turns N]

Ray Data has two actors with a thread each. The bare loops are two processes with a thread each, which have
loaded the model before the clock starts, and complete the prompts of even and of odd numbers, all of them in
one sampler: nothing that spreads them can be faster. The model is a decoder of 2.7 M parameters with random
weights in float32, and a sixteenth of its tokens end a completion, so that lengths differ as answers do. The
completions must be equal. A turn of few prompts tells what starting takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, write_result
from codex_ray.config.common import Device
from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.config.model import Model, Residual
from codex_ray.config.rollout import Spread
from codex_ray.config.use import Generate
from codex_ray.model import build_model
from codex_ray.rollout.batches import requests_of
from codex_ray.rollout.generate import complete
from codex_ray.rollout.load import load_with_tokenizer
from codex_ray.rollout.prompts import read_prompts
from codex_ray.rollout.verb import generate_verb
from codex_ray.tokenizer import Tokenizer, train_tokenizer

ACTORS, ROWS, LONGEST, FEW, SEED = 2, 32, 64, 64, 1234
VOCABULARY, ENDING = 2048, 16
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
    parser = argparse.ArgumentParser(description="Completing a file: Ray Data beside bare loops.")
    parser.add_argument("--prompts", type=int, default=4000, help="prompts of a turn")
    parser.add_argument("--turns", type=int, default=3, help="turns, each of all ways")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"few": [], "ray_data": [], "bare": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_model(folder)
        for size in (FEW, arguments.prompts):
            _write_prompts(folder, size)
        for turn in range(arguments.turns):
            bare, taken = _bare(folder, arguments.prompts)
            seconds["bare"].append(taken)
            seconds["few"].append(_ray_data(folder, FEW)[1])
            spread, taken = _ray_data(folder, arguments.prompts)
            seconds["ray_data"].append(taken)
            if bare != spread:
                raise SystemExit("the completions differ")
            print(
                f"turn {turn}: { ({way: round(times[-1], 1) for way, times in seconds.items()}) }", flush=True
            )
    print(write_result("batch_inference", _figures(seconds, arguments.prompts), {"turns": arguments.turns}))


def _figures(seconds: dict[str, list[float]], prompts: int) -> dict[str, Figure]:
    median = {way: statistics.median(times) for way, times in seconds.items()}
    started = (prompts - FEW) / (median["ray_data"] - median["few"])
    bare = prompts / median["bare"]
    return {
        "ray_data_over_bare_loops": Figure(started / bare, "ratio", "higher", 0.9),
        "bare_loops_prompts_per_second": Figure(bare, "prompts/s", "higher"),
        "ray_data_prompts_per_second_once_started": Figure(started, "prompts/s", "higher"),
        "ray_data_prompts_per_second": Figure(prompts / median["ray_data"], "prompts/s", "higher"),
        f"ray_data_seconds_of_{FEW}": Figure(median["few"], "s", "lower"),
    }


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
        output=str(folder / "completed.jsonl"),
        max_new_tokens=LONGEST,
        stop_ids=list(range(ENDING, VOCABULARY, ENDING)),
        temperature=1.0,
        top_p=1.0,
        batch_rows=ROWS,
        spread=Spread(actors=ACTORS),
        seed=SEED,
        compute=Device("cpu", "float32"),
    )


def _ray_data(folder: Path, size: int) -> tuple[dict[int, str], float]:
    """Complete a file as the verb does; returns what prompts got and the seconds, starting included."""
    settings, began = _settings(folder, size), time.perf_counter()
    generate_verb(settings)
    taken = time.perf_counter() - began
    assert settings.output is not None
    lines = map(json.loads, Path(settings.output).read_text().splitlines())
    return {line["number"]: line["completion"] for line in lines}, taken


def _bare(folder: Path, size: int) -> tuple[dict[int, str], float]:
    """Complete a file in processes of its own; returns the same, without starting them."""
    context = multiprocessing.get_context("spawn")
    ready, queue = context.Barrier(ACTORS + 1), context.Queue()
    processes = [
        context.Process(target=_loop, args=(folder, size, part, ready, queue)) for part in range(ACTORS)
    ]
    for process in processes:
        process.start()
    ready.wait(300)
    began = time.perf_counter()
    parts = [queue.get(timeout=600) for _ in processes]
    taken = time.perf_counter() - began
    for process in processes:
        process.join(60)
    return parts[0] | parts[1], taken


def _loop(folder: Path, size: int, part: int, ready: Any, queue: Any) -> None:
    import torch

    torch.set_num_threads(1)
    settings = _settings(folder, size)
    model, tokenizer = load_with_tokenizer(settings.model, None, settings.compute)
    texts = [record["prompt"] for record in read_prompts(_prompts(folder, size))]
    asked = requests_of(settings, tokenizer, (0, texts))[part::ACTORS]
    ready.wait(300)
    done = complete(model, tokenizer, asked, slots=ROWS)
    queue.put({part + ACTORS * place: one.text for place, one in enumerate(done)})


if __name__ == "__main__":
    main()
