"""Tasks answered by Ray actors: the answers of one process, each example once, also when one is killed."""

from __future__ import annotations

import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from codex_ray.config.common import Device, Mlflow, Track
from codex_ray.config.evaluate import Answering, Evaluate, Rows
from codex_ray.config.rollout import Spread
from codex_ray.config.use import Generate
from codex_ray.evaluate import store
from codex_ray.evaluate.run import Evaluation, evaluate
from codex_ray.rollout.verb import generate_verb
from codex_ray.tokenizer import Tokenizer
from tests.unit.evaluate.small_corpus import make_corpus, make_model

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    make_corpus(folder / "corpus")
    make_model(folder / "model", Tokenizer.load(folder / "corpus" / "tokenizer"))
    return folder / "model"


def settings_of(model: Path, place: Path, count: int, actors: int) -> Evaluate:
    rows = [{"id": f"n{n}", "prompt": f"x{n} =", "response": f"{n}"} for n in range(count)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Evaluate(
        model=str(model),
        tasks=[str(place / "rows.jsonl")],
        rows=Rows(
            metrics=["exact_match", "edit_similarity"],
            answering=Answering(max_new_tokens=4, temperature=1.0, stop=["\n"]),
        ),
        spread=Spread(actors=actors, cpus_per_actor=0.5),
        answers=str(place / f"answers-{actors}"),
        compute=Device("cpu", "float32"),
        track=Track(progress="off", mlflow=Mlflow(enabled=False)),
    )


def outputs(measured: Evaluation, task: int = 0) -> list[tuple[str, ...]]:
    return [one.texts for one in measured.tasks[task].answers]


def processes_of_actors(driver: int | None = None) -> list[psutil.Process]:
    """Return the processes of Ray Data's actors in this process's Ray, or another's."""
    running = psutil.Process(driver).children(recursive=True)
    return [one for one in running if one.name().startswith("ray::MapWorker")]


def test_actors_answer_as_one_process_does(model: Path, tmp_path: Path) -> None:
    asked = [settings_of(model, tmp_path, 90, actors) for actors in (2, 0)]
    (tmp_path / "others.jsonl").write_text((tmp_path / "rows.jsonl").read_text().replace("x", "y"))
    asked = [replace(one, tasks=[*one.tasks, str(tmp_path / "others.jsonl")]) for one in asked]
    spread, alone = map(evaluate, asked)
    assert spread.figures == alone.figures
    for task in (0, 1):
        assert outputs(spread, task) == outputs(alone, task)
        assert len(set(outputs(spread, task))) > 20


def completing(model: Path, place: Path, count: int, output: str, actors: int) -> Generate:
    rows = [{"id": f"n{n}", "prompt": f"x{n} ="} for n in range(count)]
    (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Generate(
        model=str(model),
        prompts_file=str(place / "prompts.jsonl"),
        output=str(place / output),
        max_new_tokens=6,
        regex="[ -~]+",
        stop_ids=[20],
        spread=Spread(actors=actors, cpus_per_actor=0.5),
        compute=Device("cpu", "float32"),
    )


def completions(settings: Generate) -> list[tuple[str, str]]:
    assert settings.output is not None
    lines = map(json.loads, Path(settings.output).read_text().splitlines())
    return [(line["id"], line["completion"]) for line in lines]


@pytest.mark.verify
def test_actors_complete_a_file_as_one_process_does_also_where_it_was_cut_off(
    model: Path, tmp_path: Path
) -> None:
    alone, spread = (completing(model, tmp_path, 150, f"out-{actors}", actors) for actors in (0, 2))
    generate_verb(alone)
    generate_verb(spread)
    whole = completions(alone)
    assert completions(spread) == whole
    assert [name for name, _ in whole] == [f"n{n}" for n in range(150)]
    assert len({text for _, text in whole}) > 20
    output = tmp_path / "out-2"
    lines = output.read_text().splitlines(keepends=True)
    output.write_text("".join(lines[:70]) + lines[70][:9])  # within the second step
    generate_verb(replace(spread, resume=True))
    assert completions(spread) == whole


@pytest.mark.verify
def test_actors_go_on_with_what_is_missing(model: Path, tmp_path: Path) -> None:
    alone = evaluate(settings_of(model, tmp_path, 150, 0))
    assert outputs(evaluate(settings_of(model, tmp_path, 150, 2))) == outputs(alone)
    (kept,) = (tmp_path / "answers-2").glob("*/answers.ndjson")
    lines = kept.read_text().splitlines()
    kept.write_text("".join(f"{line}\n" for line in lines[:70]))
    assert outputs(evaluate(settings_of(model, tmp_path, 150, 2))) == outputs(alone)
    places = [json.loads(line)["place"] for line in kept.read_text().splitlines()]
    assert sorted(places) == list(range(150))


@pytest.mark.verify
def test_ten_thousand_examples_through_four_actors_with_one_killed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(model, tmp_path, 10_000, 4)
    settings = replace(settings, track=replace(settings.track, progress="plain"))
    killed: list[psutil.Process] = []
    added: Counter[int] = Counter()
    add = store.Answers.add

    def count(answers: store.Answers, place: int, found: Any) -> None:
        added[place] += 1
        add(answers, place, found)
        if added.total() == 2000:
            actors = processes_of_actors()
            assert len(actors) == 4
            killed.append(actors[1])
            killed[0].send_signal(signal.SIGKILL)

    monkeypatch.setattr(store.Answers, "add", count)
    measured = evaluate(settings)
    assert len(killed) == 1 and "an actor died" in capsys.readouterr().err
    assert measured.figures["rows/examples"] == 10_000
    assert added == Counter(range(10_000))
    alone = evaluate(replace(settings, spread=Spread(), answers=str(tmp_path / "alone"), batch_rows=64))
    assert outputs(alone) == outputs(measured)
    assert alone.figures == measured.figures
