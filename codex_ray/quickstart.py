"""The ``quickstart`` verb: raw text to a trained, evaluated, talking model on this machine.

It calls the same verbs with the same settings as a user would, in one Ray session, and can be
interrupted and run again: a finished stage is recognised by what it left.
"""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from codex_ray.cluster.session import open_session
from codex_ray.config.common import Device
from codex_ray.config.corpus import Prepare
from codex_ray.config.evaluate import Evaluate
from codex_ray.config.quickstart import Quickstart
from codex_ray.config.train import Pretrain
from codex_ray.corpus.documents import documents
from codex_ray.corpus.prepare import prepare
from codex_ray.errors import Interrupted
from codex_ray.evaluate.run import evaluate, table_rows
from codex_ray.files import read_json, write_json
from codex_ray.rollout.generate import generate
from codex_ray.rollout.load import load_with_tokenizer
from codex_ray.track import Progress, open_progress, write_report
from codex_ray.train.driver import pretrain

SAMPLES, SAMPLE_TOKENS, PROMPT_CHARACTERS = 4, 96, 120


@dataclass(frozen=True)
class QuickstartResult:
    """Where things are, and the closing figures."""

    run: Path
    model: Path
    figures: dict[str, float]


def quickstart(settings: Quickstart, progress: Progress | None = None) -> QuickstartResult:
    """Prepare, pretrain, evaluate, sample and report, leaving out what is done already.

    Raises:
        CodexRayError: a stage cannot go on; what it has done is kept and continued next time.
        Interrupted: the user stopped it.
    """
    folder = Path(settings.folder).expanduser().absolute()
    try:
        return _quickstart(settings, folder, progress)
    except (KeyboardInterrupt, Interrupted) as error:
        raise Interrupted(
            f"the quickstart in {folder} was stopped; run the same command again and it continues"
        ) from error


def _quickstart(settings: Quickstart, folder: Path, progress: Progress | None) -> QuickstartResult:
    began = time.monotonic()
    corpus, run = folder / "corpus", folder / "run"
    undivided = not run.exists()
    with open_progress(progress, settings.pretrain.track.progress) as shown:
        shown.plan("prepare", "pretrain", "evaluate", "sample")
        with open_session(settings.pretrain.cluster):
            with shown.stage("prepare"):
                prepare(_prepare_settings(settings, corpus), shown)
            if not (run / "model").exists():
                pretrain(_pretrain_settings(settings, corpus, folder), shown)
        compute = _as_trained(settings, run)
        with shown.stage("evaluate"):
            evaluation = evaluate(_evaluate_settings(settings, corpus, run, compute), shown)
        with shown.stage("sample"):
            write_json(run / "samples.json", _samples(settings, corpus, run / "model", compute))
        figures = read_json(run / "summary.json", "summary") | evaluation.figures
        if undivided:  # the last start of several says nothing of the whole
            figures["quickstart_seconds"] = time.monotonic() - began
        write_json(run / "summary.json", figures)
        write_report(run)
        _close(figures, run, shown)
    return QuickstartResult(run, run / "model", figures)


def _prepare_settings(settings: Quickstart, corpus: Path) -> Prepare:
    return replace(settings.prepare, text=settings.text, output=str(corpus), seed=settings.seed)


def _pretrain_settings(settings: Quickstart, corpus: Path, folder: Path) -> Pretrain:
    pretraining = settings.pretrain
    train = pretraining.train
    if train.steps is None and train.epochs is None:
        train = replace(train, seconds=settings.seconds)
    return replace(
        pretraining,
        corpus=str(corpus),
        runs=str(folder),
        name="run",
        resume="auto",
        seed=settings.seed,
        train=train,
    )


def _as_trained(settings: Quickstart, run: Path) -> Device:
    """Return the device and the precision that the run decided on: the fastest here, and always the same."""
    decided = read_json(run / "decided.json", "run decisions")
    return replace(settings.pretrain.compute, dtype=decided["dtype"])


def _evaluate_settings(settings: Quickstart, corpus: Path, run: Path, compute: Device) -> Evaluate:
    return Evaluate(
        model=str(run / "model"),
        corpus=str(corpus),
        baselines=True,
        headers=settings.headers if settings.text == "stdlib" else 0,
        output=str(run / "evaluation"),
        seed=settings.seed,
        compute=compute,
        track=settings.pretrain.track,
    )


def _samples(settings: Quickstart, corpus: Path, model_folder: Path, compute: Device) -> list[dict[str, str]]:
    """Continue the beginnings of some held-out documents."""
    model, tokenizer = load_with_tokenizer(str(model_folder), None, compute)
    prompts = []
    for document in documents(corpus, "validation"):
        if len(document.text) > 2 * PROMPT_CHARACTERS:
            start = document.text[:PROMPT_CHARACTERS]
            prompts.append(start.rpartition("\n")[0] or start)
        if len(prompts) == SAMPLES:
            break
    completions = generate(
        model,
        [[tokenizer.special_ids["bos"], *tokenizer.encode(prompt)] for prompt in prompts],
        max_new_tokens=SAMPLE_TOKENS,
        temperature=0.7,
        top_p=0.95,
        seed=settings.seed,
        tokenizer=tokenizer,
    )
    return [
        {"prompt": prompt, "completion": completion.text}
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _close(figures: dict[str, float], run: Path, shown: Progress) -> None:
    training = [
        ("parameters", f"{figures['parameters']:,.0f}"),
        ("tokens seen", f"{figures['tokens']:,.0f}"),
        ("tokens/s", f"{figures['tokens_per_second']:,.0f}"),
        ("share of the measured matmul peak", f"{figures['mfu']:.1%}"),
        ("training", f"{figures['train_seconds']:.0f} s"),
    ]
    script = Path(sys.executable).with_name("codex-ray")
    command = str(script) if script.exists() else f"{sys.executable} -m codex_ray"
    prompt = shlex.quote('prompt="def read_lines(path):"')
    places = [
        ("run folder", str(run)),
        ("report", str(run / "report.html")),
        ("model", str(run / "model")),
        ("next", f"{command} generate {run / 'model'} {prompt}"),
    ]
    shown.table("quickstart", [*training, *table_rows(figures), *places])
