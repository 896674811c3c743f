"""A chat model that answers a signature with its docstring, made of this Python's standard library.

    python -m benchmarks.docstrings FOLDER           does it in a folder, and goes on where it stopped
    python -m benchmarks.docstrings FOLDER steps=N   with so many steps of pretraining

A model of the quickstart's size is pretrained on four fifths of the modules (`pretrain recipe=quickstart`)
and tuned on their functions (`finetune showcase=docstrings`). It is measured on the functions of the other
modules, by chrF, beside the pretrained model and the docstring of the training function whose signature is
most alike. Intervals are of a paired bootstrap over functions.
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.on_policy import write_rows
from benchmarks.results import FOLDER, Figure, machine_name, write_result
from codex_ray.cli import main as command
from codex_ray.config.common import Device
from codex_ray.config.evaluate import Bootstrap
from codex_ray.corpus.documents import documents
from codex_ray.evaluate.intervals import Difference, paired
from codex_ray.evaluate.metrics import Answered, Example, find_metric
from codex_ray.rollout.batches import chat_ids
from codex_ray.rollout.generate import generate, prompt_ids
from codex_ray.rollout.load import load_with_tokenizer
from codex_ray.tokenizer.conversation import ChatTemplate

STEPS, LONGEST, FEWEST = 600, 240, 500  # of pretraining; characters of a docstring; functions measured
Row = dict[str, str]


def main(words: list[str]) -> int:
    """Train, answer, compare and write the result file."""
    if not words or len(words) > 2 or not all(word.startswith("steps=") for word in words[1:]):
        print("usage: python -m benchmarks.docstrings FOLDER [steps=N]", file=sys.stderr)
        return 2
    folder = Path(words[0]).absolute()
    steps = int(words[1].removeprefix("steps=")) if len(words) == 2 else STEPS
    corpus, base, tuned, file = (folder / name for name in ("corpus", "run", "chat", "docstrings.jsonl"))
    split = ["split.validation=0.1", "split.test=0.1", "pack.sequence_length=256"]
    stages = [
        (
            corpus / "manifest.json",
            ["prepare", "source=stdlib", "tokenizer=bpe-2k", f"output={corpus}", *split],
        ),
        (
            base / "model",
            [
                "pretrain",
                str(corpus),
                "recipe=quickstart",
                f"train.steps={steps}",
                "name=run",
                f"runs={folder}",
            ],
        ),
        (
            tuned / "model",
            ["finetune", str(base), str(file), "showcase=docstrings", "name=chat", f"runs={folder}"],
        ),
    ]
    for made, stage in stages:
        if stage[0] == "finetune":
            shown, held_out = functions(corpus)
            write_rows(file, shown)
        resume = [] if stage[0] == "prepare" else ["resume=auto"]
        if not made.exists() and (status := command([*stage, *resume])):
            return status
    return _measure(folder, base, tuned, shown, held_out)


def functions(corpus: Path) -> tuple[list[Row], list[Row]]:
    """Return signatures with docstrings: of the modules that a corpus was trained on, and of the others."""
    others = {one.name: one.text for split in ("validation", "test") for one in documents(corpus, split)}
    library = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(str(path.relative_to(library)) for path in library.rglob("*.py"))
    known = [name for name in names if name not in others and _wanted(name)]
    shown = [row for name in known for row in _documented((library / name).read_bytes())]
    seen = {(row["prompt"], row["response"]) for row in shown}
    unseen = [name for name in sorted(others) if _wanted(name)]
    held_out = [row for name in unseen for row in _documented(others[name].encode())]
    return shown, [row for row in held_out if (row["prompt"], row["response"]) not in seen]


def _wanted(name: str) -> bool:
    """Whether a module is one that people use: no test and no package of another project."""
    return not {"test", "tests", "idle_test", "site-packages"} & set(Path(name).parts)


def _documented(source: bytes) -> Iterator[Row]:
    """Give the functions of a module that have a docstring: its first paragraph answers the signature."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for parent in ast.walk(tree):
        for node in ast.iter_child_nodes(parent):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if len(paragraph.split()) > 2 and len(paragraph) <= LONGEST:
                owner = f"class {parent.name}: " if isinstance(parent, ast.ClassDef) else ""
                yield {"prompt": f"{owner}def {node.name}({ast.unparse(node.args)})", "response": paragraph}


def _measure(folder: Path, base: Path, tuned: Path, shown: Sequence[Row], held_out: Sequence[Row]) -> int:
    if len(held_out) < FEWEST:
        print(f"only {len(held_out)} functions are held out, {FEWEST} are wanted", file=sys.stderr)
        return 1
    answers = {
        "pretrained": _generated(base, held_out, chat=True),
        "pretrained_as_code": _as_code(base, held_out),
        "nearest": _nearest(shown, held_out),
        "chat": _generated(tuned, held_out, chat=True),
    }
    table = [row | {name: texts[n] for name, texts in answers.items()} for n, row in enumerate(held_out)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    chrf = find_metric("chrf")
    sums = {name: chrf.statistics(_answered(held_out, texts)) for name, texts in answers.items()}
    better = {
        name: paired(sums[name], sums["chat"], chrf.combine, Bootstrap())
        for name in answers
        if name != "chat"
    }
    _draw({name: float(chrf.combine(one.sum(0, keepdims=True))[0]) for name, one in sums.items()}, better)
    figures = {"chrf_chat": Figure(better["nearest"].second, "chrF", "higher")}
    for name, found in better.items():
        aim = 5.0 if name == "pretrained" else None
        figures[f"chrf_{name}"] = Figure(found.first, "chrF", "higher")
        figures[f"chrf_over_{name}"] = Figure(found.difference.value, "chrF", "higher", aim=aim)
        figures[f"chrf_over_{name}_low"] = Figure(
            found.difference.low, "chrF", "higher", aim=0.0 if name == "pretrained" else None
        )
    figures["functions"] = Figure(float(len(held_out)), "functions", "higher", aim=float(FEWEST))
    extra = {"differences": {name: asdict(found) for name, found in better.items()}, "shown": len(shown)}
    print(write_result("docstrings", figures, extra=extra | {"examples": table[:: len(table) // 8][:8]}))
    return 0


def _answered(rows: Sequence[Row], texts: Sequence[str]) -> list[Answered]:
    return [
        Answered(Example(str(number), row["prompt"], (row["response"],)), (text,))
        for number, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]


def _generated(run: Path, rows: Sequence[Row], *, chat: bool) -> list[str]:
    """Answer signatures greedily, as the chat template has them."""
    model, tokenizer = load_with_tokenizer(str(run), None, Device())
    texts = [row["prompt"] for row in rows]
    ids = chat_ids(ChatTemplate.of(tokenizer, run / "model"), texts) if chat else prompt_ids(tokenizer, texts)
    done = generate(model, ids, max_new_tokens=64, temperature=0.0, tokenizer=tokenizer)
    return [" ".join(one.text.split()) for one in done]


def _as_code(run: Path, rows: Sequence[Row]) -> list[str]:
    """Have signatures completed as the code that the pretrained model knows: up to the docstring's end."""
    model, tokenizer = load_with_tokenizer(str(run), None, Device())
    ids = prompt_ids(tokenizer, [_code(row["prompt"]) for row in rows])
    done = generate(model, ids, max_new_tokens=64, temperature=0.0, tokenizer=tokenizer, stop=['"""', "\n\n"])
    return [" ".join(one.text.split()) for one in done]


def _code(prompt: str) -> str:
    owner, _, function = prompt.rpartition(": def ")
    indent = "    " if owner else ""
    before = f"{owner}:\n\n{indent}def " if owner else ""
    return f'{before}{function}:\n{indent}    """'


def _nearest(shown: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Return, for each signature, the docstring of the one most alike by its characters' n-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(analyzer="char", ngram_range=(2, 4), sublinear_tf=True)
    known = words.fit_transform(row["prompt"] for row in shown)
    alike = words.transform(row["prompt"] for row in rows) @ known.T
    return [shown[int(np.argmax(alike[n].toarray()))]["response"] for n in range(len(rows))]


def _draw(values: dict[str, float], better: dict[str, Difference]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    left.barh(list(values), list(values.values()), color="C0")
    left.set(xlabel="chrF, functions of modules never seen")
    for place, (_name, found) in enumerate(better.items()):
        gap = found.difference
        right.errorbar(
            gap.value,
            place,
            xerr=[[gap.value - gap.low], [gap.high - gap.value]],
            fmt="o",
            capsize=4,
            color="C3",
        )
    right.set(yticks=range(len(better)), yticklabels=list(better), xlabel="chat better by, 95 % interval")
    right.axvline(0.0, color="grey", linewidth=0.8)
    figure.tight_layout()
    figure.savefig(FOLDER / f"docstrings.{machine_name()}.png", dpi=110)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
