"""The generate verb: one prompt on the terminal, files of prompts, and being stopped."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from codex_ray.config.common import Device
from codex_ray.config.model import Model
from codex_ray.config.rollout import Spread
from codex_ray.config.use import Export, Generate
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model import CodexRayForCausalLM, build_model, load_model
from codex_ray.model.export import export
from codex_ray.rollout.batches import chat_ids, draw_seed
from codex_ray.rollout.generate import generate, prompt_ids
from codex_ray.rollout.prompts import read_prompts
from codex_ray.rollout.verb import generate_verb
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from codex_ray.tokenizer.conversation import ChatTemplate

ROOT = Path(__file__).parents[3]
SHAPE = Model(hidden_size=32, intermediate_size=48, layers=2, heads=2, key_value_heads=1, head_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a random model in it."""
    from codex_ray.config.corpus import Tokenizer as Settings

    run = tmp_path_factory.mktemp("run")
    tokenizer = train_tokenizer(
        [Path(io.__file__).read_text()], Settings(vocabulary_size=400), run / "model", seed=1
    )
    build_model(
        SHAPE, vocabulary_size=400, sequence_length=64, seed=1, special_ids=tokenizer.special_ids
    ).save_pretrained(run / "model")
    return run


@pytest.fixture
def settings(folder: Path) -> Generate:
    return Generate(
        model=str(folder), prompt="import os\n", max_new_tokens=12, compute=Device("cpu", "float32")
    )


def write_prompts(path: Path, count: int) -> Path:
    path.write_text(
        "".join(json.dumps({"prompt": f"x = {number}\n", "id": number}) + "\n" for number in range(count))
    )
    return path


def test_one_prompt_is_printed_as_its_completion(
    settings: Generate, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = generate_verb(settings)
    expected = generate(
        load_model(folder),
        prompt_ids(Tokenizer.load(folder), ["import os\n"]),
        max_new_tokens=12,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=[draw_seed(settings.seed, 0)],
        tokenizer=Tokenizer.load(folder),
    )
    printed = capsys.readouterr()
    assert done.completions == expected
    assert printed.out == expected[0].text + "\n"
    assert "12 tokens in" in printed.err and "tokens/s" in printed.err


def test_an_adapter_generates_with_the_tokenizer_of_its_base(
    settings: Generate, folder: Path, tmp_path: Path
) -> None:
    base = CodexRayForCausalLM.from_pretrained(folder / "model")
    adapted = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    done = generate_verb(replace(settings, model=str(tmp_path / "adapter")))
    assert len(done.completions[0].ids) == 12
    assert done.completions[0].ids != generate_verb(settings).completions[0].ids
    export(Export(model=str(tmp_path / "adapter"), output=str(tmp_path / "whole")))
    assert generate_verb(replace(settings, model=str(tmp_path / "whole"))).completions == done.completions


def test_an_unset_prompt_is_standard_input(
    settings: Generate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = generate_verb(settings)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"import os\n")))
    assert generate_verb(replace(settings, prompt=None)).completions == expected.completions
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(CodexRayError, match="standard input is not UTF-8"):
        generate_verb(replace(settings, prompt=None))


@pytest.mark.parametrize("batch_rows", [1, 3, 16])
def test_a_file_of_prompts_becomes_lines_in_order(
    settings: Generate, tmp_path: Path, batch_rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 20)
    asked = replace(settings, prompt=None, prompts_file=str(prompts), batch_rows=batch_rows)
    printed_by = generate_verb(asked)
    printed = capsys.readouterr().out
    generate_verb(replace(asked, output=str(tmp_path / "out.jsonl"), batch_rows=4))
    assert capsys.readouterr().out == ""
    for text in (printed, (tmp_path / "out.jsonl").read_text()):
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["id"] for line in lines] == list(range(20))
        for line, completion in zip(lines, printed_by.completions, strict=True):
            assert line["prompt"] == f"x = {line['id']}\n"
            assert line["completion"] == completion.text
            assert line["finish_reason"] == completion.finish_reason
            assert line["tokens"] == len(completion.ids)
            assert line["logprob"] == pytest.approx(sum(completion.logprobs), abs=1e-3)


def test_an_output_that_was_cut_off_goes_on_as_it_would_have(settings: Generate, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 20)
    output = tmp_path / "out.jsonl"
    asked = replace(settings, prompt=None, prompts_file=str(prompts), output=str(output), batch_rows=1)
    tokens = generate_verb(asked).tokens
    whole = output.read_text()
    output.write_text(whole[: whole.index('"id": 7') + 3])
    assert 0 < generate_verb(replace(asked, resume=True)).tokens < tokens
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["id"], line["completion"]) for line in again] == [
        (line["id"], line["completion"]) for line in map(json.loads, whole.splitlines())
    ]
    assert generate_verb(replace(asked, resume=True)).tokens == 0
    for wrong, sentence in (
        ('{"prompt": "another"}\n', r"line 1 of .* is not of prompt 1"),
        (whole + whole.splitlines()[0] + "\n", "more lines than there are prompts"),
    ):
        output.write_text(wrong)
        with pytest.raises(CodexRayError, match=sentence):
            generate_verb(replace(asked, resume=True))
        assert output.read_text() == wrong


def test_an_output_has_one_writer(settings: Generate, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 2)
    output = tmp_path / "out.jsonl"
    output.write_text("somebody's\n")
    with output.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(CodexRayError, match="is being written by another process"):
            generate_verb(replace(settings, prompt=None, prompts_file=str(prompts), output=str(output)))
    assert output.read_text() == "somebody's\n"


def test_a_prompt_that_is_too_long_is_found_before_anything_is_sampled(
    settings: Generate, tmp_path: Path
) -> None:
    prompts, output = write_prompts(tmp_path / "prompts.jsonl", 100), tmp_path / "out.jsonl"
    with prompts.open("a") as stream:
        stream.write(json.dumps({"prompt": "a b " * 100}) + "\n")
    asked = replace(settings, prompt=None, prompts_file=str(prompts), output=str(output))
    with pytest.raises(CodexRayError, match=r"prompt 101 has .* the model takes 64"):
        generate_verb(asked)
    assert not output.exists()


def test_completions_are_held_to_a_pattern_within_a_budget(settings: Generate, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 5)
    asked = replace(settings, prompt=None, prompts_file=str(prompts), max_new_tokens=40)
    asked, pattern = replace(asked, regex="[0-9]{3}(, [a-f]{2}){2}"), "[0-9]{3}(, [a-f]{2}){2}"
    completions = generate_verb(asked).completions
    assert all(re.fullmatch(pattern, done.text) for done in completions)
    assert {done.finish_reason for done in completions} == {"stop"}
    one = 2 * 2 * 16 * 4  # of a position: layers, keys and values, head size, bytes
    within = generate_verb(replace(asked, cache_bytes=one * 100)).completions
    assert [done.ids for done in within] == [done.ids for done in completions]
    stopped = generate_verb(replace(asked, regex=None, stop_ids=list(range(4, 200)))).completions
    assert all(done.finish_reason == "stop" and done.ids[-1] < 200 for done in stopped if len(done.ids) < 40)
    assert any(len(done.ids) < 40 for done in stopped)


def test_one_prompt_can_be_written_to_a_file(
    settings: Generate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = generate_verb(replace(settings, output=str(tmp_path / "out.jsonl")))
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "out.jsonl").read_text())["completion"] == done.completions[0].text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b'{"prompt": "a"}\n\n{"prompt": 3}\n', "line 3 of .* has no text under 'prompt'"),
        (b'["a"]\n', "line 1 of .* has no text"),
        (b"{'prompt'}\n", "line 1 of .* is not JSON"),
        (b"\xff\n", "cannot be read"),
        (b"[" * 100_000, "line 1 of .* is not JSON"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "prompts.jsonl").write_bytes(content)
    with pytest.raises(CodexRayError, match=sentence):
        list(read_prompts(tmp_path / "prompts.jsonl"))


@pytest.mark.parametrize(
    ("change", "sentence", "kind"),
    [
        ({"prompts_file": "p"}, "give one of them", ConfigError),
        ({"prompt": "a b " * 100}, "prompt 1 has .* the model takes 64", CodexRayError),
        ({"prompt": "\ud800"}, "surrogate", CodexRayError),
        ({"stop": [""]}, "stop string is empty", ConfigError),
        ({"stop_ids": [400]}, "stop token 400 is none of the model's 400", ConfigError),
        ({"regex": "("}, "is no regular expression", ConfigError),
        ({"cache_bytes": 1000}, "cache_bytes=1000", CodexRayError),
        ({"spread": Spread(actors=2)}, "give prompts_file=FILE", ConfigError),
        ({"resume": True}, "give prompts_file and output", ConfigError),
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all", CodexRayError),
        ({"revision": "main"}, "revision", ConfigError),
    ],
)
def test_what_cannot_be_is_refused(
    settings: Generate, change: dict[str, object], sentence: str, kind: type[CodexRayError]
) -> None:
    with pytest.raises(kind, match=sentence):
        generate_verb(replace(settings, **change))


def test_ctrl_c_ends_cleanly_and_keeps_what_is_complete(
    folder: Path, tmp_path: Path, popen: Callable[..., subprocess.Popen[str]]
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 20_000)
    words = [f"prompts_file={prompts}", "batch_rows=2", "max_new_tokens=20", "compute.device=cpu"]
    printed, errors = tmp_path / "printed", tmp_path / "errors"
    with printed.open("w") as out, errors.open("w") as err:
        process = popen(
            [sys.executable, "-m", "codex_ray", "generate", str(folder), *words, "compute.dtype=float32"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=err,
        )
        deadline = time.monotonic() + 120
        while not printed.stat().st_size and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, errors.read_text()
    lines = [json.loads(line) for line in printed.read_text().splitlines()]
    assert lines and [line["id"] for line in lines] == list(range(len(lines)))
    stopped = re.search(r"stopped; (\d+) of 20000 completions are whole", errors.read_text())
    assert stopped is not None and len(lines) <= int(stopped[1]) < 20_000
    assert "Traceback" not in errors.read_text()


def test_a_prompt_is_a_users_turn_where_it_is_a_chat(folder: Path) -> None:
    found = Tokenizer.load(folder)
    (ids,) = chat_ids(ChatTemplate.of(found, None), ["sort</s> 3 1"])
    assert ids[0] == found.bos_id and ids.count(found.eos_id or -1) == 1  # what looks special is text
    assert found.decode(ids) == "user\nsort</s> 3 1assistant\n"
    plain = Generate(
        model=str(folder), prompt="def f", max_new_tokens=4, temperature=0.0, compute=Device(device="cpu")
    )
    one, other = (generate_verb(replace(plain, chat=chat)).completions[0] for chat in (False, True))
    assert len(one.ids) <= 4 and len(other.ids) <= 4
    with pytest.raises(CodexRayError, match="chat template failed"):
        chat_ids(ChatTemplate("{{ raise_exception('no') }}", found), ["x"])
