"""Rows of messages, or prompts and responses, as packed and marked examples."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config.corpus import Tokenizer as Train
from codex_ray.config.finetune import Examples
from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.example_rows import Held, Lines
from codex_ray.corpus.examples import prepare_examples
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.marked import BEGINS, IDS, LEARNT, fill_rows, mark, prompt_of, targets
from codex_ray.corpus.tokenising import best_fit
from codex_ray.errors import CodexRayError
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from codex_ray.tokenizer.conversation import ChatTemplate
from codex_ray.track.progress import open_progress
from codex_ray.train.objectives.decoded import one_by_one

Prepare = Callable[..., Manifest]
PAIRS = [{"prompt": f"def f{i}(x):", "response": f"    return {i} * x\n"} for i in range(40)]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["response"]},
        ]
    }
    for row in PAIRS
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(
        [row["prompt"] + row["response"] for row in PAIRS] * 20, Train(vocabulary_size=300), folder, 1
    )
    return Tokenizer.load(folder)


@pytest.fixture
def prepared(tokenizer: Tokenizer, tmp_path: Path) -> Prepare:
    def prepare(
        rows: list[Any] | Path, name: str = "out", length: int = 64, kind: str = "answers", **values: Any
    ) -> Manifest:
        if isinstance(rows, list):
            file = tmp_path / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            rows = file
        wanted = Examples(path=str(rows), **values)
        with open_progress(None, "off") as progress:
            template = ChatTemplate.of(tokenizer, None, wanted.chat_template)
            return prepare_examples(
                wanted, template, tmp_path / name, length=length, seed=1, progress=progress, kind=kind
            )

    return prepare


def texts(manifest: Manifest, tokenizer: Tokenizer, split: str = "train") -> list[tuple[str, str]]:
    """What is read and what is learnt of every example, with special tokens by name."""
    names, pieces = tokenizer.vocabulary(), tokenizer.byte_pieces or []
    rows = RowReader(manifest, split, 1).take(np.arange(manifest.splits[split].rows))
    found = []
    for row in rows:
        starts = [*np.flatnonzero(row & BEGINS), len(row)]
        for start, stop in itertools.pairwise(starts):
            tokens = row[start:stop]
            read, learnt = (
                b"".join(
                    pieces[t & IDS] or names[t & IDS].encode()
                    for t in tokens
                    if bool(t & LEARNT) == is_learnt
                ).decode()
                for is_learnt in (False, True)
            )
            if learnt:
                found.append((read, learnt))
    return sorted(found)


def test_pairs_and_chats_are_read_as_such(prepared: Prepare, tokenizer: Tokenizer) -> None:
    pairs = texts(prepared(PAIRS, validation=0.0), tokenizer)
    assert pairs == sorted((f"<s>{row['prompt']}", f"{row['response']}</s>") for row in PAIRS)
    chats = prepared(CHATS, "chats", validation=0.0)
    assert texts(chats, tokenizer) == sorted(
        (f"<s>user\n{row['prompt']}</s><s>assistant\n", f"{row['response']}</s>") for row in PAIRS
    )
    assert texts(prepared(PAIRS, "as_chats", validation=0.0, chat=True), tokenizer) == texts(chats, tokenizer)


def test_special_tokens_in_prompts_and_responses_are_text(prepared: Prepare, tokenizer: Tokenizer) -> None:
    (row,) = RowReader(prepared([{"prompt": "<s>a</s>", "response": "</s>b"}], "attack"), "train", 1).take(
        np.array([0])
    )
    ids = [int(token & IDS) for token in row if token & IDS != tokenizer.pad_id]
    assert ids.count(tokenizer.eos_id) == ids.count(tokenizer.bos_id) == 1


def test_every_example_is_in_one_split_and_counts(prepared: Prepare, tokenizer: Tokenizer) -> None:
    manifest = prepared(PAIRS, validation=0.3)
    train, held_out = texts(manifest, tokenizer), texts(manifest, tokenizer, "validation")
    assert len(train) + len(held_out) == len(PAIRS) and not set(train) & set(held_out) and held_out
    for split, found in (("train", train), ("validation", held_out)):
        info = manifest.splits[split]
        assert info.documents == len(found)
        assert info.bytes == sum(len(learnt.removesuffix("</s>")) for _, learnt in found)
    manifest.verify()
    Manifest.load(manifest.folder)


def test_the_same_rows_make_the_same_folder_and_others_are_refused(prepared: Prepare) -> None:
    first = prepared(PAIRS)
    assert prepared(first.folder.parent / "out.jsonl").fingerprint == first.fingerprint
    with pytest.raises(CodexRayError, match="have changed since this run began"):
        prepared(first.folder.parent / "out.jsonl", chat=True)


def test_parquet_and_other_column_names(prepared: Prepare, tokenizer: Tokenizer, tmp_path: Path) -> None:
    table = pa.table({"q": [row["prompt"] for row in PAIRS], "a": [row["response"] for row in PAIRS]})
    pq.write_table(table, tmp_path / "rows.parquet")
    found = prepared(tmp_path / "rows.parquet", "p", prompt="q", response="a", validation=0.0)
    assert texts(found, tokenizer) == texts(prepared(PAIRS, "j", validation=0.0), tokenizer)
    pq.write_table(pa.table({"messages": [row["messages"] for row in CHATS]}), tmp_path / "chats.parquet")
    found = prepared(tmp_path / "chats.parquet", "pc", validation=0.0)
    assert texts(found, tokenizer) == texts(prepared(CHATS, "jc", validation=0.0), tokenizer)


def test_preferences_are_packed_in_pairs(prepared: Prepare, tokenizer: Tokenizer) -> None:
    texts_of = [{"prompt": r["prompt"], "chosen": r["response"], "rejected": "pass"} for r in PAIRS]
    chats_of = [
        {"messages": [{"role": "user", "content": r["prompt"]}], "chosen": r["response"], "rejected": "pass"}
        for r in PAIRS
    ]
    whole = [
        {
            side: [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row[side]},
            ]
            for side in ("chosen", "rejected")
        }
        for row in texts_of
    ]
    plain = prepared(texts_of, "plain", 96, kind="preferences", validation=0.0)
    rows = torch.from_numpy(
        RowReader(plain, "train", 1).take(np.arange(plain.splits["train"].rows)).astype("int64")
    )
    sequences = one_by_one(rows)
    assert len(sequences.lengths_B) == 2 * len(PAIRS)
    answers = [
        tokenizer.decode(ids[mask].tolist())
        for ids, mask in zip(sequences.input_ids_BS, sequences.mask_BS, strict=True)
    ]
    assert sorted(answers[0::2]) == sorted(row["response"] for row in PAIRS)
    assert set(answers[1::2]) == {"pass"}
    chats = prepared(chats_of, "chats", 128, kind="preferences", validation=0.0)
    assert texts(chats, tokenizer) == texts(
        prepared(whole, "whole", 128, kind="preferences", validation=0.0), tokenizer
    )
    with pytest.raises(CodexRayError, match="column rejected is missing"):
        prepared([{"prompt": "a", "chosen": "b"}], "half", kind="preferences")


def test_prompts_have_a_row_each_and_their_text(prepared: Prepare, tokenizer: Tokenizer) -> None:
    manifest = prepared(CHATS, kind="prompts", validation=0.2)
    lines = (manifest.folder / "train" / "records.jsonl").read_text().splitlines()
    rows = RowReader(manifest, "train", 1).take(np.arange(manifest.splits["train"].rows))
    assert len(lines) == len(rows) == manifest.splits["train"].documents
    template = ChatTemplate.of(tokenizer, None)
    for line, row in zip(lines, rows, strict=True):
        ((record),) = json.loads(line)
        assert prompt_of(row) == template.prompt(record["messages"][:-1])


BAD = {
    "column prompt is missing; there are response": {"response": "x"},
    "column response holds no text": {"prompt": "x", "response": " "},
    "column prompt is no text": {"prompt": 3, "response": "x"},
    "column messages is no list of messages": {"messages": "x"},
    "message 1 of messages has no content that is text": {"messages": [{"role": "user"}]},
    "no message of messages is the assistant's": {"messages": [{"role": "user", "content": "x"}]},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_row_that_cannot_be_used_is_named_or_left_out(reason: str, prepared: Prepare) -> None:
    rows = [*PAIRS[:4], BAD[reason], *PAIRS[4:]]
    with pytest.raises(CodexRayError, match=r"line 5 of .*bad\.jsonl .*" + reason.replace("(", r"\(")):
        prepared(rows, "bad")
    kept = prepared(rows, "skipped", on_error="skip")
    assert kept.sources["examples"]["kept"] == len(PAIRS)
    assert sum(kept.sources["examples"]["refused"].values()) == 1
    with pytest.raises(CodexRayError, match=r"nothing of .* can be learnt from"):
        prepared([BAD[reason]], "alone", on_error="skip")


def test_an_example_that_is_too_long_is_left_out_cut_or_refused(
    prepared: Prepare, tokenizer: Tokenizer
) -> None:
    long = [*PAIRS, {"prompt": "ab", "response": "y = x\n" * 60}]
    assert prepared(long, "drop").sources["examples"]["refused"] == {"too long": 1}
    cut = prepared(long, "cut", too_long="cut", validation=0.0)
    assert cut.sources["examples"]["cut"] == 1
    assert dict(texts(cut, tokenizer))["<s>ab"].startswith("y = x\n")
    with pytest.raises(
        CodexRayError, match=r"line 41 of .*fail\.jsonl \(too long: \d+ tokens, and there is room for 64\)"
    ):
        prepared(long, "fail", too_long="fail")
    with pytest.raises(CodexRayError, match="nothing to learn: the prompt alone takes all room"):
        prepared([{"prompt": "y = x\n" * 60, "response": "1"}], "prompt", too_long="cut")


def test_rows_that_are_not_there_are_named(prepared: Prepare, tmp_path: Path) -> None:
    with pytest.raises(CodexRayError, match=r"data\.path=.*missing\.jsonl does not exist"):
        prepared(tmp_path / "missing.jsonl")


def test_a_template_that_fails_is_named(prepared: Prepare, tmp_path: Path) -> None:
    file = tmp_path / "picky.jinja"
    file.write_text("{{ raise_exception('only system messages') }}")
    with pytest.raises(CodexRayError, match="the chat template failed: only system messages"):
        prepared(CHATS, "picky", chat_template=str(file))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=40), st.integers(16, 32), st.randoms())
def test_packing_keeps_every_example_whole_and_once(lengths: list[int], length: int, draw: Any) -> None:
    examples = []
    for number, size in enumerate(lengths):
        learnt = np.array([draw.random() < 0.5 for _ in range(size)])
        examples.append(mark(np.arange(size, dtype=np.uint32) + 100 * number + 4, learnt))
    held = Held()
    for example in examples:
        held.add(example)
    packed = best_fit(held.lengths, length)
    rows = fill_rows(held.tokens(), np.cumsum(held.lengths), packed, length, pad_id=3)
    found = []
    for row in rows:
        starts = [*np.flatnonzero(row & BEGINS), length]
        assert starts[0] == 0
        pieces = [row[start:stop] for start, stop in itertools.pairwise(starts)]
        found += [piece for piece in pieces if piece[0] & IDS != 3]
        assert all(not (piece[0] & LEARNT) for piece in pieces)
    assert sorted(map(bytes, found)) == sorted(map(bytes, examples))
    assert sum(map(targets, found)) == sum(map(targets, examples))


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def tooled(arguments: Any = '{"a": 1}', **more: Any) -> dict[str, Any]:
    call = {"id": None, "type": "function", "function": {"name": "add", "arguments": arguments}}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "def f1(x)?", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "    return"},
        {"role": "assistant", "content": "1", "tool_calls": None},
        {"role": "user", "content": "thanks"},
    ]
    return {"messages": turns, **more}


def test_conversations_with_tools_are_learnt(prepared: Prepare, tokenizer: Tokenizer) -> None:
    """Arguments may be JSON text or objects, tools a list or JSON text, as tables and APIs have them."""
    wanted = {"length": 256, "validation": 0.0}
    found = prepared([tooled(tools=TOOLS)], "calls", **wanted)
    assert texts(found, tokenizer) == [
        (
            f"<s>tools\n{json.dumps(TOOLS)}</s><s>user\ndef f1(x)?</s><s>assistant\n<s>tool\n    return</s>"
            "<s>assistant\n",
            '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call></s>1</s>',
        )
    ]
    other = prepared([tooled({"a": 1}, tools=json.dumps(TOOLS))], "objects", **wanted)
    assert texts(other, tokenizer) == texts(found, tokenizer)
    prompts = prepared([tooled(tools=TOOLS)], "prompts", kind="prompts", **wanted)
    (row,) = RowReader(prompts, "train", 1).take(np.array([0]))
    assert tokenizer.decode(prompt_of(row)).endswith("assistant\n")
    (record,) = json.loads((prompts.folder / "train" / "records.jsonl").read_text())
    assert record["tools"] == TOOLS and record["messages"][-1]["content"] == "1"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (tooled("no JSON"), "the arguments of a call of message 2 of messages are no JSON object"),
        (tooled(tools=[{"type": "function"}]), "a tool of column tools has no name"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}, "message 2 .* no content"),
    ],
)
def test_calls_and_tools_that_are_none_are_named(row: Any, sentence: str, prepared: Prepare) -> None:
    with pytest.raises(CodexRayError, match=sentence):
        prepared([row], "wrong")


def test_a_prompt_whose_answer_is_a_call_has_nothing_to_be_compared_with(prepared: Prepare) -> None:
    row = tooled()
    with pytest.raises(CodexRayError, match="calls a tool and says nothing"):
        prepared([row | {"messages": row["messages"][:2]}], "call", kind="prompts")


def test_lines_are_found_by_number(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("one\n\nthre\u00e9\u2028e\nlast\n", encoding="utf-8")
    lines = Lines(tmp_path / "lines")
    assert [lines[number] for number in (3, 0, 2, 1)] == ["last", "one", "thre\u00e9\u2028e", ""]
    assert len(lines) == 4
    with pytest.raises(CodexRayError, match="none cannot be read"):
        Lines(tmp_path / "none")


def test_memory_does_not_grow_with_the_text_of_examples() -> None:
    """A hundred thousand prompts of 100 tokens with their rows: 80 MB of them, of which lengths are kept."""
    example, record = np.full(100, 7, dtype=np.uint32), json.dumps([PAIRS[0]] * 8)
    tracemalloc.start()
    held = Held()
    for _ in range(100_000):
        held.add(example, 10, record)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 4_000_000 < 100_000 * (example.nbytes + len(record))
    assert len(held) == held.records == 100_000 and len(held.tokens()) == 10_000_000
