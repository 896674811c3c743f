"""Streams through a real local Ray: the same rows as read directly, in the driver and in Train's workers."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from codex_ray.corpus.direct import StepRows
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.ray_data import run_tasks
from codex_ray.corpus.stream import open_stream
from codex_ray.errors import CodexRayError
from tests.unit.corpus.corpora import make_corpus, row_ids

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]

SEED, BATCH, STEPS = 11, 8, 150


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_corpus(tmp_path_factory.mktemp("ray_stream") / "corpus", rows=1009, row_group_rows=16)


def opened(
    corpus: Manifest, kind: str, rank: int, world_size: int, steps: int = STEPS, first: int = 2
) -> Any:
    return open_stream(
        corpus.folder,
        "train",
        kind=kind,
        seed=SEED,
        first_step=first,
        steps=steps,
        batch_rows=BATCH,
        rank=rank,
        world_size=world_size,
    )


def wait_until_warm(stream: Any) -> None:
    stream.warm_up()
    deadline = time.monotonic() + 120
    while not stream._warm:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_both_kinds_and_all_world_sizes_give_the_same_global_batches(corpus: Manifest) -> None:
    expected = corpus.order("train", SEED).rows(2 * BATCH, (2 + STEPS) * BATCH).reshape(STEPS, BATCH).tolist()
    for world_size in (1, 2, 4):
        for kind in ("ray", "direct"):
            streams = [opened(corpus, kind, rank, world_size) for rank in range(world_size)]
            if kind == "ray":
                for stream in streams:
                    wait_until_warm(stream)
            batches = zip(*streams, strict=True)
            found = [[row for share in shares for row in row_ids(share.tokens)] for shares in batches]
            assert found == expected, (world_size, kind)
            for stream in streams:
                stream.close()


def test_steps_before_and_after_the_hand_over_are_one_sequence(corpus: Manifest) -> None:
    stream = opened(corpus, "ray", 1, 2)
    found: list[StepRows] = [next(stream) for _ in range(5)]
    wait_until_warm(stream)
    found += list(stream)
    for mine, direct in zip(found, opened(corpus, "direct", 1, 2), strict=True):
        assert mine.step == direct.step
        assert np.array_equal(mine.positions, direct.positions)
        assert np.array_equal(mine.tokens, direct.tokens)


def test_closing_leaves_no_thread(corpus: Manifest) -> None:
    before = threading.active_count()
    for steps in (0, 3):
        stream = opened(corpus, "ray", 0, 1, steps=100_000)
        for _ in range(steps):
            next(stream)
        stream.close()
    stream = opened(corpus, "ray", 0, 1, steps=100_000)
    wait_until_warm(stream)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before, [thread.name for thread in threading.enumerate()]


def test_a_damaged_shard_ends_the_stream_with_its_name(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", rows=200, row_group_rows=16)
    shard = corpus.splits["train"].shards[2]
    path = corpus.folder / shard.path
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    stream = opened(corpus, "ray", 0, 1, steps=10_000)
    deadline = time.monotonic() + 120
    with pytest.raises(CodexRayError, match=r"shard-00002\.parquet is damaged") as caught:
        while time.monotonic() < deadline:
            next(stream)
    assert "\n" not in str(caught.value)
    stream.close()


def fail(task: str) -> pa.Table:
    if task == "expected":
        raise CodexRayError("the thing broke; mend it")
    raise ValueError(f"first line of {task}\nsecond line")


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("expected", "the thing broke; mend it"),
        ("surprise", "a Ray Data task failed (ValueError: first line of surprise)"),
    ],
)
def test_a_failed_task_is_one_sentence(task: str, sentence: str) -> None:
    with pytest.raises(CodexRayError) as caught:
        list(run_tasks(fail, [task], num_cpus=0.1, concurrency=1, ordered=True, stall_seconds=60))
    assert str(caught.value) == sentence


def loop(config: dict[str, Any]) -> None:
    """A training loop that only reads: every step's rows, and whether Ray Data gave them."""
    import ray.train

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    manifest = Manifest.load(config["corpus"])
    stream = opened(manifest, "ray", rank, world_size)
    seen = []
    for rows in stream:
        seen.append((rows.step, row_ids(rows.tokens), stream._warm))
        if len(seen) == 10:
            wait_until_warm(stream)
    stream.close()
    Path(config["out"], str(rank)).write_text(repr(seen))


def test_in_train_workers_each_rank_reads_its_share(corpus: Manifest, tmp_path: Path) -> None:
    from ast import literal_eval

    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        loop,
        train_loop_config={"corpus": str(corpus.folder), "out": str(tmp_path)},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="stream", storage_path=str(tmp_path / "ray")),
    )
    trainer.fit()
    ranks = [literal_eval((tmp_path / str(rank)).read_text()) for rank in range(2)]
    expected = corpus.order("train", SEED).rows(2 * BATCH, (2 + STEPS) * BATCH).reshape(STEPS, BATCH).tolist()
    assert [first[1] + second[1] for first, second in zip(*ranks, strict=True)] == expected
    assert [step for step, _, _ in ranks[0]] == list(range(2, 2 + STEPS))
    assert all(warm for _, _, warm in ranks[1][11:])
