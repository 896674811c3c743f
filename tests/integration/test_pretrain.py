"""Pretraining on real Ray Train and DeepSpeed: what a run leaves, and that every way of ending ends alike."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest
from transformers import AutoModelForCausalLM

from codex_ray.config.check import derive_batch
from codex_ray.config.common import Samples, Track
from codex_ray.config.model import Model, Residual
from codex_ray.config.train import Checkpoints, Optimizer, Schedule, Training, Validation
from codex_ray.corpus.direct import digest
from codex_ray.corpus.stream import open_stream
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.runs.state import states
from codex_ray.track.metrics import Row, read_metrics
from codex_ray.track.spans import read_spans
from codex_ray.train.checkpoint import CheckpointFolder, Found, damage
from codex_ray.train.driver import TrainingResult, pretrain
from codex_ray.train.messages import MessageReader
from codex_ray.train.source import sources_used
from tests.integration.training import (
    GLOBAL_ROWS,
    LENGTH,
    QUIET,
    STEPS,
    TWO_WORKERS,
    assert_same_end,
    batches,
    cut,
    flip,
    losses,
    run_settings,
)
from tests.unit.corpus.corpora import make_corpus

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]
GOLDEN = Path(__file__).parent.parent / "golden" / "loss_curve.json"


@pytest.fixture(scope="module")
def undisturbed(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps that nothing disturbs."""
    result = pretrain(run_settings(tiny_corpus, tmp_path_factory.mktemp("runs"), "undisturbed"))
    assert result.completed
    return result.run


def test_run_shorter_than_its_save_interval_leaves_everything(tiny_corpus: Path, tmp_path: Path) -> None:
    track = Track(
        metrics=["jsonl", "csv", "parquet"],
        progress="off",
        mixing_every=5,
        tensorboard=True,
        system_seconds=0.5,
    )
    settings = run_settings(
        tiny_corpus,
        tmp_path,
        "short",
        train=Training(steps=20, batch_tokens=GLOBAL_ROWS * LENGTH),
        checkpoints=Checkpoints(every=200),
        stream="ray",
        track=track,
    )
    run = pretrain(settings).run
    assert [path.name for path in (run / "checkpoints").glob("step_*")] == ["step_00000020"]
    latest = run / "checkpoints" / "latest"
    assert latest.read_text() == "step_00000020\n" and not latest.is_symlink()
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 21))
    table = pyarrow.parquet.read_table(run / "metrics.parquet")
    assert table.column("loss").to_pylist() == [row["loss"] for row in rows]
    assert pyarrow.csv.read_csv(run / "metrics.csv").column("batch").to_pylist() == [
        row["batch"] for row in rows
    ]
    assert any(key.startswith("mixing/") for key in rows[5])
    for name in ("config.yaml", "environment.json", "summary.json", "report.html", "loss.png"):
        assert (run / name).stat().st_size > 0, name
    for rank in (0, 1):
        log = (run / "attempts" / "1" / f"worker_{rank}.log").read_text()
        assert f"worker {rank} of 2" in log and "first step: " in log
    environment = json.loads((run / "environment.json").read_text())
    assert environment["mlflow_uri"].startswith("sqlite:") and environment["seeds"]["seed"] == 1234
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters"] == AutoModelForCausalLM.from_pretrained(run / "model").num_parameters()
    assert logged_losses(tmp_path, run) == [row["loss"] for row in rows]
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert model.config.model_type == "codex_ray"
    assert_watched(run, rows)


def assert_watched(run: Path, rows: list[Row]) -> None:
    """Spans of both ranks agree with the metrics; load, event files, report and outcome are there."""
    for rank in (0, 1):
        spans = list(read_spans([run / "attempts" / "1" / f"spans_{rank}.jsonl"]))
        by_phase = {
            phase: {s["step"]: s["seconds"] for s in spans if s["phase"] == phase}
            for phase in {span["phase"] for span in spans}
        }
        steps = [row["step"] for row in rows]
        for phase in ("data", "forward", "backward", "optimizer step", "reduction"):
            assert list(by_phase[phase]) == steps, phase
        assert list(by_phase["mixing gains"]) == [1, 6, 11, 16]  # before steps 0, 5, 10 and 15 were done
        assert list(by_phase["checkpoint"]) == list(by_phase["export"]) == [20]
        assert 20 in by_phase["validation"] and {"start: model", "start: first step"} <= by_phase.keys()
    for row in rows:
        parts = [row[name] for name in ("forward_seconds", "backward_seconds", "optimizer_seconds")]
        assert all(part > 0 for part in parts) and sum(parts) < row["step_seconds"]
        assert 0 <= row["data_share"] < 1
    (load,) = run.glob("attempts/1/system_*.jsonl")
    assert all(json.loads(line)["rss_bytes"] > 0 for line in load.read_text().splitlines())
    assert len(list(run.glob("tensorboard/events.out.tfevents.*"))) == 1
    assert "Where time went" in (run / "report.html").read_text()
    assert json.loads((run / "attempts" / "1" / "outcome.json").read_text())["status"] == "completed"
    assert states([run]) == {run: "completed"}


def logged_losses(runs: Path, run: Path) -> list[float]:
    from mlflow import MlflowClient

    state = json.loads((run / "mlflow.json").read_text())
    history = MlflowClient(state["uri"]).get_metric_history(state["run_id"], "loss")
    assert MlflowClient(state["uri"]).get_run(state["run_id"]).info.status == "FINISHED"
    return [metric.value for metric in sorted(history, key=lambda metric: metric.step)]


def test_losses_follow_the_golden_curve(undisturbed: Path) -> None:
    assert losses(undisturbed) == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-3)


def test_a_save_costs_the_loop_a_copy_and_says_so(undisturbed: Path) -> None:
    rows = read_metrics(undisturbed / "metrics.jsonl")
    name = "checkpoint_stall_seconds"
    stalls = {int(row["step"]): float(row[name]) for row in rows if name in row}  # type: ignore[arg-type]
    assert list(stalls) == [4, 8, 12] and all(seconds > 0 for seconds in stalls.values())
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert summary[name] == pytest.approx(sum(stalls.values())) and summary["checkpoint_stall_steps"] > 0
    folder = CheckpointFolder(undisturbed / "checkpoints")
    assert folder.steps() == [8, 12] and not list(folder.folder.glob(".*"))
    for step in folder.steps():
        path, row = folder.path(step), rows[step - 1]
        manifest = Found.read(path).manifest
        assert damage(path) is None and manifest["asynchronous"] is True
        assert manifest["figures"].items() <= row.items() and manifest["figures"]["loss"] == row["loss"]
        assert manifest["bytes"] == sum((path / name).stat().st_size for name in manifest["files"])
        assert manifest["commit"] == json.loads((undisturbed / "environment.json").read_text())["commit"]
        assert manifest["config"]["seed"] == 1234 and manifest["environment"]["torch"]


@pytest.mark.verify
@pytest.mark.parametrize("what", ["streams", "layers"])
def test_recomputing_changes_no_loss(what: str, undisturbed: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    train = Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH, stop_after=5, recompute=what)
    run = pretrain(run_settings(tiny_corpus, tmp_path, what, train=train)).run
    assert losses(run) == losses(undisturbed)[:5]


@pytest.mark.verify
def test_a_compiled_run_has_the_same_losses(undisturbed: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    train = Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH, stop_after=5, compile=True)
    run = pretrain(run_settings(tiny_corpus, tmp_path, "compiled", train=train)).run
    assert losses(run) == pytest.approx(losses(undisturbed)[:5], rel=1e-4)
    logs = [path.read_text() for path in run.glob("attempts/*/worker*.log")]
    assert len(logs) == 2 and all("sublayers are compiled: 2 graphs" in log for log in logs)


@pytest.mark.verify
def test_a_run_trains_on_from_a_model_folder_and_resumes_without_it(
    undisturbed: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    start = Path(shutil.copytree(undisturbed / "model", tmp_path / "start"))
    train = Training(steps=4, batch_tokens=GLOBAL_ROWS * LENGTH)
    settings = run_settings(tiny_corpus, tmp_path, "whole", start=str(start), train=train)
    whole = pretrain(settings).run
    assert losses(whole)[0] < losses(undisturbed)[-1] + 0.1
    stopped = replace(settings, name="stopped", train=replace(train, stop_after=2))
    assert not pretrain(stopped).completed
    shutil.rmtree(start)  # the checkpoint has all that is needed
    resumed = pretrain(replace(stopped, train=train))
    assert resumed.completed
    assert_same_end(whole, resumed.run)


def test_metrics_name_the_batches_that_the_order_says(undisturbed: Path, tiny_corpus: Path) -> None:
    stream = open_stream(
        tiny_corpus,
        "train",
        kind="direct",
        seed=1234,
        first_step=0,
        steps=STEPS,
        batch_rows=GLOBAL_ROWS,
        rank=0,
        world_size=1,
    )
    assert batches(undisturbed) == [(step + 1, digest(rows)) for step, rows in enumerate(stream)]


@pytest.mark.verify
@pytest.mark.parametrize("stops", [(6,), (1, 6, 11)], ids=str)
def test_stops_and_resumes_end_alike(
    stops: tuple[int, ...], undisturbed: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    samples = Samples(prompts=["def ", "return"], every=2, max_new_tokens=8)  # these change nothing
    track = replace(QUIET, samples=samples)
    for stop_after in (*stops, None):
        training = Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH, stop_after=stop_after)
        settings = run_settings(tiny_corpus, tmp_path, "stops", train=training, stream="ray", track=track)
        result = pretrain(settings)
        assert result.completed == (stop_after is None)
    assert_same_end(result.run, undisturbed)
    lines = [json.loads(line) for line in (result.run / "samples.jsonl").read_text().splitlines()]
    assert [(line["step"], line["prompt"]) for line in lines] == [
        (step, prompt) for step in range(2, STEPS + 1, 2) for prompt in samples.prompts
    ]
    assert any(line["completion"] for line in lines)


@pytest.mark.verify  # test_growing continues with one worker too
@pytest.mark.parametrize("workers", [1, 4])
def test_a_run_continues_with_another_number_of_workers(
    workers: int, undisturbed: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    training = Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH)
    settings = run_settings(tiny_corpus, tmp_path, "resized", train=replace(training, stop_after=6))
    pretrain(settings)
    cluster = replace(TWO_WORKERS, workers=workers)
    result = pretrain(replace(settings, train=training, cluster=cluster, resume="must"))
    assert batches(result.run) == batches(undisturbed)
    assert losses(result.run) == pytest.approx(losses(undisturbed), rel=1e-4)
    notes = [
        item["text"] for item in MessageReader(result.run / "attempts" / "2").new() if item["kind"] == "note"
    ]
    assert notes == ["resumed from step 6, written by 2 workers"]
    assert not list(result.run.glob("checkpoints/.*"))


@pytest.mark.verify
@pytest.mark.parametrize("workers", [1, 4])
def test_global_batches_are_the_same_at_any_number_of_workers(
    workers: int, undisturbed: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    cluster = replace(TWO_WORKERS, workers=workers)
    result = pretrain(run_settings(tiny_corpus, tmp_path, "workers", cluster=cluster, stream="ray"))
    assert batches(result.run) == batches(undisturbed)
    assert losses(result.run) == pytest.approx(losses(undisturbed), rel=1e-4)


@pytest.mark.verify
def test_targets_weigh_the_same_however_documents_are_shared_out(tiny_corpus: Path, tmp_path: Path) -> None:
    """Kept apart, documents leave each worker and micro-batch another number of targets."""
    training = Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH, documents="separate")
    one = replace(TWO_WORKERS, workers=1)
    two = pretrain(run_settings(tiny_corpus, tmp_path, "two", train=replace(training, micro_batch_rows=1)))
    whole = pretrain(run_settings(tiny_corpus, tmp_path, "one", train=training, cluster=one))
    assert batches(two.run) == batches(whole.run)
    assert losses(two.run) == pytest.approx(losses(whole.run), rel=1e-4)
    assert two.figures["validation_loss"] == pytest.approx(whole.figures["validation_loss"], rel=1e-3)


@pytest.mark.verify
def test_a_mixture_goes_on_where_it_was_and_says_what_it_used(tmp_path: Path) -> None:
    sources = {"code": (53, 0.25), "prose": (40, 0.6), "small": (6, 0.15)}
    corpus = make_corpus(tmp_path / "mixed", length=LENGTH, sources=sources, held_out=16)
    training = Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH)
    whole = pretrain(run_settings(corpus.folder, tmp_path, "whole", train=training, stream="ray"))
    pretrain(run_settings(corpus.folder, tmp_path, "parts", train=replace(training, stop_after=5)))
    parts = pretrain(run_settings(corpus.folder, tmp_path, "parts", train=training))
    assert_same_end(parts.run, whole.run)
    order = corpus.order("train", 1234)
    for run in (whole.run, parts.run):
        for row in read_metrics(run / "metrics.jsonl"):
            used = sources_used(corpus, order, int(row["step"]) * GLOBAL_ROWS)  # type: ignore[arg-type]
            assert len(used) == 6 and used.items() <= row.items()
    assert used.items() <= parts.figures.items()
    held_out = [value for name, value in parts.figures.items() if name.startswith("validation/")]
    assert len(held_out) >= 2
    assert min(held_out) < parts.figures["validation_loss"] < max(held_out)


@pytest.mark.verify
def test_one_batch_is_learnt_by_heart(tiny_corpus: Path, tmp_path: Path) -> None:
    """With a rate that suits it, the model brings the loss of four repeated rows near zero."""
    result = overfit(tiny_corpus, tmp_path)
    assert losses(result.run)[-1] < 0.05


def overfit(corpus: Path, runs: Path) -> TrainingResult:
    one_batch = corpus_of_one_batch(corpus, runs)
    return pretrain(
        run_settings(
            one_batch,
            runs,
            "overfit",
            model=Model(
                hidden_size=64,
                intermediate_size=128,
                layers=2,
                heads=4,
                key_value_heads=2,
                head_size=16,
                residual=Residual(streams=2),
            ),
            optimizer=Optimizer(kind="adamw", learning_rate=1e-2, weight_decay=0.0),
            schedule=Schedule(kind="constant", warmup_steps=5),
            train=Training(steps=150, batch_tokens=4 * LENGTH),
            checkpoints=Checkpoints(every=1000),
            validation=Validation(every=0, rows=0),
        )
    )


def corpus_of_one_batch(corpus: Path, folder: Path) -> Path:
    """A corpus whose training split is one batch of four rows."""
    from codex_ray.corpus.prepare import prepare
    from tests.integration.training import corpus_settings

    text = folder / "text"
    text.mkdir()
    sample = " ".join(f"word{number}" for number in range(40))
    (text / "one.txt").write_text(sample[:220])
    from codex_ray.config.corpus import Split, Tokenizer

    prepare(
        corpus_settings(
            text,
            folder / "one",
            tokenizer=Tokenizer(path=str(corpus / "tokenizer")),
            split=Split(validation=0.0, test=0.0),
        )
    )
    return folder / "one"


def test_a_second_run_in_the_same_folder_is_refused(undisturbed: Path, tiny_corpus: Path) -> None:
    settings = run_settings(tiny_corpus, undisturbed.parent, undisturbed.name, resume="never")
    with pytest.raises(CodexRayError, match="resume=auto"):
        pretrain(settings)


def test_resuming_with_other_settings_names_them(undisturbed: Path, tiny_corpus: Path) -> None:
    settings = run_settings(tiny_corpus, undisturbed.parent, undisturbed.name, seed=7)
    with pytest.raises(ConfigError, match=r"seed \(1234 then, 7 now\)"):
        pretrain(settings)


def test_more_workers_than_the_cluster_can_give_are_refused_at_once(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    training = Training(steps=1, batch_tokens=64 * LENGTH)
    settings = run_settings(
        tiny_corpus, tmp_path, "many", cluster=replace(TWO_WORKERS, workers=64), train=training
    )
    started = time.monotonic()
    with pytest.raises(CodexRayError, match=r"64 CPUs .* the cluster has 8"):
        pretrain(settings)
    assert time.monotonic() - started < 10


def test_a_corpus_smaller_than_one_batch_is_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    training = Training(steps=1, batch_tokens=2**20 * LENGTH)
    with pytest.raises(CodexRayError, match="one batch"):
        pretrain(run_settings(tiny_corpus, tmp_path, "small", train=training))


def test_a_batch_that_cannot_be_divided_names_one_that_can(tiny_corpus: Path, tmp_path: Path) -> None:
    training = Training(steps=1, batch_tokens=100)
    with pytest.raises(ConfigError, match="128"):
        pretrain(run_settings(tiny_corpus, tmp_path, "odd", train=training))
    assert derive_batch(128, LENGTH, 2).global_rows == 4


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda corpus: cut(corpus / "train" / "text-shard-00000.parquet"),
            r"text-shard-00000.parquet is damaged",
        ),
        (
            lambda corpus: flip(corpus / "train" / "text-shard-00000.parquet"),
            r"text-shard-00000.parquet is damaged",
        ),
        (lambda corpus: flip(corpus / "tokenizer" / "tokenizer.model"), r"tokenizer"),
        (lambda corpus: cut(corpus / "manifest.json"), r"manifest.json is damaged"),
    ],
    ids=["shard cut", "shard flipped", "tokenizer", "manifest"],
)
def test_a_damaged_corpus_ends_in_one_sentence_that_names_it(
    damage: Callable[[Path], None], sentence: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_corpus, tmp_path / "corpus")
    damage(tmp_path / "corpus")
    with pytest.raises(CodexRayError, match=sentence) as caught:
        pretrain(run_settings(tmp_path / "corpus", tmp_path, "damaged", stream="ray"))
    assert "\n" not in str(caught.value)


@pytest.mark.verify
def test_a_run_ends_where_validation_no_longer_falls(tiny_corpus: Path, tmp_path: Path) -> None:
    settings = run_settings(
        tiny_corpus,
        tmp_path,
        "patient",
        optimizer=Optimizer(kind="adamw", learning_rate=1e-9, weight_decay=0.0),  # nothing is learnt
        validation=Validation(every=2, rows=8, patience=2),
        train=Training(steps=40, batch_tokens=GLOBAL_ROWS * LENGTH, stop_after=4),
    )
    assert not pretrain(settings).completed
    ended = pretrain(replace(settings, train=replace(settings.train, stop_after=None)))
    rows = [row for row in read_metrics(ended.run / "metrics.jsonl") if "validation_loss" in row]
    found = [float(row["validation_loss"]) for row in rows]  # type: ignore[arg-type]
    lowest = found.index(min(found))
    assert ended.completed and ended.model and ended.step == 2 * len(found) < 40
    assert lowest == len(found) - 3
    notes = [
        item["text"] for item in MessageReader(ended.run / "attempts" / "2").new() if item["kind"] == "note"
    ]
    assert f"the run ends at step {ended.step}" in notes[-1]
    assert pretrain(settings).step == ended.step  # it is complete, also when run again


def test_a_non_finite_loss_stops_before_the_step(tiny_corpus: Path, tmp_path: Path) -> None:
    hot = Optimizer(kind="adamw", learning_rate=1e30, clip_norm=0.0)
    settings = run_settings(tiny_corpus, tmp_path, "hot", optimizer=hot, schedule=Schedule(warmup_steps=0))
    with pytest.raises(CodexRayError, match="not finite at optimizer step"):
        pretrain(settings)
    assert (tmp_path / "hot" / "first_error.txt").read_text().startswith("attempt 1, role worker")
