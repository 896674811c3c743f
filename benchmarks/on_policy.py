"""Small models that learn from their own answers: from a warm start, by GRPO, with the shipped settings.

    python -m benchmarks.on_policy sort          sorts four digits, by the share of digits in their place
    python -m benchmarks.on_policy calculator    multiplies, by learning to use a calculator in its text

A fresh model of two layers learns from answers what they look like (`finetune showcase=NAME-warm`) and then
from its own (`finetune showcase=NAME`). Every prompt of the second run is new to it, so that its curve of
rewards is of questions that it has never seen; 500 others are answered greedily before and after. Writes the
figures and a plot. A folder may be given, in which what is finished already is kept.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER, Figure, machine_name, write_result
from codex_ray.cli import main as command
from codex_ray.cluster.session import open_session
from codex_ray.config.common import Cluster, Device
from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.config.model import Model, Residual
from codex_ray.config.rollout import Rollouts
from codex_ray.model import build_model
from codex_ray.rollout.actor import FromFolder
from codex_ray.rollout.episode import Prompt, Rollout
from codex_ray.rollout.generate import prompt_ids
from codex_ray.rollout.pool import open_pool
from codex_ray.rollout.problems import sorting
from codex_ray.rollout.rewards import Rewarded, stops_of
from codex_ray.rollout.sampling import Sampling
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from codex_ray.track.metrics import read_metrics

Row = dict[str, str]
SHAPE = Model(
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    heads=4,
    key_value_heads=2,
    head_size=16,
    residual=Residual(kind="plain"),
)
LENGTH, VOCABULARY, HELD_OUT = 64, 280, 500


@dataclass(frozen=True)
class Showcase:
    """What is learnt.

    Attributes:
        rows: questions and answers, all different: those to warm up with, those to learn from, and others.
        reward, environment: what an answer is measured by in the end, as ``on_policy`` names them.
        aim: share of the held-out questions that are to be right.
    """

    rows: Callable[[], tuple[list[Row], list[Row], list[Row]]]
    reward: str
    environment: str
    aim: float


def main(words: list[str]) -> int:
    """Train, measure, draw and write the result file."""
    if len(words) not in (1, 2) or words[0] not in SHOWCASES:
        print(f"usage: python -m benchmarks.on_policy {'|'.join(SHOWCASES)} [FOLDER]", file=sys.stderr)
        return 2
    name, showcase = words[0], SHOWCASES[words[0]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(words[1] if len(words) == 2 else temporary).absolute()
        warm_up, questions, others = showcase.rows()
        fresh = _fresh(folder, [*warm_up, *others])
        warm, learnt = folder / "warm", folder / "learnt"
        runs = [(fresh, warm_up, warm, f"{name}-warm"), (warm, questions, learnt, name)]
        for model, rows, run, settings in runs:
            file = write_rows(folder / f"{settings}.jsonl", rows)
            common = [f"name={run.name}", f"runs={folder}", "resume=auto", "data.validation=0.02"]
            words = ["finetune", str(model), str(file), f"showcase={settings}", *common]
            if not (run / "model").is_dir() and (status := command(words)):
                return status
        with open_session(Cluster(logical_cpus=4)):
            before, after = (_answers(run, others, showcase) for run in (warm, learnt))
        steps = [dict(row) for row in read_metrics(learnt / "metrics.jsonl")]
        _draw(name, [row for row in steps if "reward" in row], before, after)
        figures = _figures(steps, before, after, showcase.aim)
        named = {f"{name}_{figure}": found for figure, found in figures.items()}
        print(write_result(f"on_policy_{name}", named))
    return 0


def _sorting() -> tuple[list[Row], list[Row], list[Row]]:
    asked = [sorting(1, index, digits=4) for index in range(40_000)]
    rows = list({one.prompt: {"prompt": f"{one.prompt} ", "response": one.answer} for one in asked}.values())
    return rows[:1000], rows[1000:-HELD_OUT], rows[-HELD_OUT:]


def _products() -> tuple[list[Row], list[Row], list[Row]]:
    draw = random.Random(1)
    pairs = [(left, right) for left in range(10, 100) for right in range(10, 100)]
    draw.shuffle(pairs)
    rows = [{"prompt": f"{left}*{right} = ", "response": str(left * right)} for left, right in pairs]
    warm_up = [
        row
        if number % 4
        else row | {"response": f"<<{row['prompt'][:5]}={row['response']}>> {row['response']}"}
        for number, row in enumerate(rows[:3000])
    ]
    return warm_up, rows[3000:7000], rows[7000 : 7000 + HELD_OUT]


SHOWCASES = {
    "sort": Showcase(_sorting, "exact", "single_turn", 0.95),
    "calculator": Showcase(_products, "last_number", "calculator", 0.95),
}


def _fresh(folder: Path, rows: Sequence[Row]) -> Path:
    """Write a model that knows nothing, with a tokenizer of what rows look like."""
    target = folder / "fresh"
    if not (target / "config.json").is_file():
        target.mkdir(parents=True, exist_ok=True)
        texts = [f"{row['prompt']}{row['response']}\n" for row in rows]
        tokenizer = train_tokenizer(texts, TokenizerSettings(vocabulary_size=VOCABULARY), target, 1)
        size, special = tokenizer.vocabulary_size, tokenizer.special_ids
        model = build_model(SHAPE, vocabulary_size=size, sequence_length=LENGTH, seed=1, special_ids=special)
        model.save_pretrained(target)
    return target


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as JSON Lines; a file that holds them is left as it is, for a run that goes on knows it."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def _answers(run: Path, rows: Sequence[Row], showcase: Showcase) -> list[Rollout]:
    """Answer questions greedily, in the environment that was learnt in."""
    ids = prompt_ids(Tokenizer.load(run / "model"), [row["prompt"] for row in rows])
    stop = list(stops_of(showcase.environment))
    settings = Rollouts(actors=1, slots=128, max_new_tokens=32, max_turns=3, stop=stop)
    build = FromFolder(str(run), Device(device="cpu", dtype="float32"))
    judge = Rewarded(showcase.reward, showcase.environment)
    with open_pool(settings, build, judge, seed=1) as pool:
        prompts = [Prompt(one, row) for one, row in zip(ids, rows, strict=True)]
        return pool.sample(prompts, sampling=Sampling(temperature=0.0))


def _right(answers: Sequence[Rollout]) -> float:
    return sum(one.reward or 0.0 for one in answers) / len(answers)


def _tool(answers: Sequence[Rollout]) -> float:
    return sum(len(one.text) > 1 for one in answers) / len(answers)


def _figures(
    rows: Sequence[dict[str, Any]], before: Sequence[Rollout], after: Sequence[Rollout], aim: float
) -> dict[str, Figure]:
    curve = [row for row in rows if "reward" in row]
    tenth = max(1, len(curve) // 10)
    return {
        "right_before": Figure(_right(before), "share", "higher"),
        "right_after": Figure(_right(after), "share", "higher", aim=aim),
        "tool_before": Figure(_tool(before), "share", "higher"),
        "tool_after": Figure(_tool(after), "share", "higher"),
        "reward_first_tenth": Figure(sum(row["reward"] for row in curve[:tenth]) / tenth, "reward", "higher"),
        "reward_last_tenth": Figure(sum(row["reward"] for row in curve[-tenth:]) / tenth, "reward", "higher"),
        "batches": Figure(float(len(curve)), "batches", "lower"),
        "train_seconds": Figure(sum(row["step_seconds"] for row in rows), "s", "lower"),
    }


def _draw(
    name: str, curve: Sequence[dict[str, Any]], before: Sequence[Rollout], after: Sequence[Rollout]
) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.5, 4))
    steps = [row["step"] for row in curve]
    axes.plot(steps, [row["reward"] for row in curve], label="mean reward of a batch, prompts never seen")
    if any(row["rollout/turns"] > 1 for row in curve):
        axes.plot(steps, [row["rollout/turns"] - 1 for row in curve], label="calculations in an answer")
    ends = [steps[0], steps[-1]]
    shares = [_right(before), _right(after)]
    axes.plot(ends, shares, "o", color="C3", label=f"{HELD_OUT} other questions right, greedily")
    axes.set(xlabel="optimizer steps", ylim=(0, max(1.05, *axes.get_ylim())), title=f"GRPO, {name}")
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(FOLDER / f"on_policy_{name}.{machine_name()}.png", dpi=110)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
