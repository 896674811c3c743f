"""The exported folder, with codex_ray and on a machine that has never heard of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.config.use import Export
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import write_json
from codex_ray.model import load_model
from codex_ray.model.export import export
from codex_ray.model.lineage import LINEAGE, life_of, lineage
from codex_ray.tokenizer import train_tokenizer
from tests.unit.model.small import build, stir, tokens

STRANGER = """
import importlib.abc, json, sys, warnings
warnings.simplefilter("error")

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "codex_ray":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
import torch
from transformers import AutoModel, AutoModelForCausalLM

folder, ids = sys.argv[1], torch.tensor(json.loads(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
base = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
torch.testing.assert_close(model.lm_head(base(ids).last_hidden_state), model(ids).logits)
generated = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
model.save_pretrained(sys.argv[3])
assert not [name for name in sys.modules if name.split(".")[0] == "codex_ray"]
print(json.dumps({"sum": model(ids).logits.double().sum().item(), "generated": generated.tolist()}))
"""


def make_run(folder: Path, kind: str = "mhc") -> Path:
    stir(build(kind, residual={"exit": "learned"})).save_pretrained(folder / "model")
    (folder / "model" / "tokenizer.json").write_text("{}")
    (folder / "model" / "tokenizer.model").write_bytes(b"pieces")
    return folder


def test_export_writes_a_complete_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    result = export(Export(model=str(run), output=str(tmp_path / "out")))
    assert result.folder == tmp_path / "out"
    assert set(result.files) == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "configuration.py",
        "generation_config.json",
        "hyper_connections.py",
        "kernels.py",
        "mixing.py",
        "model.safetensors",
        "modeling.py",
        "operations.py",
        "recomputation.py",
        "tokenizer.json",
        "tokenizer.model",
    }
    assert result.bytes == sum(path.stat().st_size for path in result.folder.iterdir())
    assert f"{result.parameters:,}" in (result.folder / "README.md").read_text()
    auto_map = json.loads((result.folder / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
    assert torch.equal(load_model(result.folder)(tokens()).logits, load_model(run)(tokens()).logits)
    assert not list(tmp_path.glob(".out*"))


def test_the_card_says_what_the_run_recorded(tmp_path: Path) -> None:
    run, corpus = make_run(tmp_path / "first"), tmp_path / "corpus"
    corpus.mkdir()
    sources = {"books": {"kept": 1200, "licence": "CC0-1.0"}, "code": {"kept": 30, "licence": None}}
    (corpus / "manifest.json").write_text(json.dumps({"sources": sources}))
    (run / "config.yaml").write_text(f"corpus: {corpus}\noptimizer: {{kind: muon}}\nseed: 7\n")
    summary = {"steps": 1000.0, "tokens": 4096000.0, "loss": 1.25, "validation_bits_per_byte": 0.75}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "environment.json").write_text("{damaged")
    card = (export(Export(model=str(run), output=str(tmp_path / "out"))).folder / "README.md").read_text()
    for line in (
        "| run | first |",
        "| optimizer steps | 1,000 |",
        "| tokens | 4,096,000 |",
        "| optimizer | muon |",
        "| training loss | 1.2500 |",
        "| validation bits per byte | 0.7500 |",
        "| seed | 7 |",
        "| books | 1,200 | CC0-1.0 |",
        "| code | 30 | not stated |",
        "Licences of the data: CC0-1.0.",
    ):
        assert line in card.splitlines(), line


def rendered(folder: Path) -> str:
    messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def test_an_exported_folder_renders_chats(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    settings = TokenizerSettings(vocabulary_size=400)
    train_tokenizer([Path(__file__).read_text()], settings, run / "model", seed=1)
    write_json(run / "model" / LINEAGE, lineage("a life", "first", "rows"))
    export(Export(model=str(run), output=str(tmp_path / "first")))
    assert life_of(tmp_path / "first") == life_of(run) == "a life"
    assert rendered(tmp_path / "first") == (
        "<s>user\n2 + 2?</s><s>assistant\n4</s><s>assistant\n"  # what fine-tuning takes as well
    )
    given = tmp_path / "given.jinja"
    given.write_text("{% for message in messages %}{{ message.role[0] }}: {{ message.content }};{% endfor %}")
    export(Export(model=str(run), output=str(tmp_path / "second"), chat_template=str(given)))
    assert rendered(tmp_path / "second") == "u: 2 + 2?;a: 4;"
    export(Export(model=str(tmp_path / "second"), output=str(tmp_path / "third")))
    assert rendered(tmp_path / "third") == "u: 2 + 2?;a: 4;"
    given.write_text("{% for message in messages %}")
    with pytest.raises(ConfigError, match=r"chat_template .* is wrong"):
        export(Export(model=str(run), output=str(tmp_path / "fourth"), chat_template=str(given)))
    with pytest.raises(ConfigError, match="cannot be read"):
        export(Export(model=str(run), output=str(tmp_path / "fourth"), chat_template=str(tmp_path / "none")))
    assert not (tmp_path / "fourth").exists()


def test_a_model_that_was_not_made_here_has_no_life(tmp_path: Path) -> None:
    assert life_of(tmp_path) is None and life_of("some/model-of-the-hub") is None
    (tmp_path / LINEAGE).write_text("{}")
    with pytest.raises(CodexRayError, match="names no life_id"):
        life_of(tmp_path)


def test_export_in_bf16_and_in_shards(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    result = export(
        Export(model=str(run), output=str(tmp_path / "out"), dtype="bfloat16", max_shard_bytes=20_000)
    )
    shards = list(result.folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    for shard in shards:
        for name, value in load_file(shard).items():
            assert value.dtype == (torch.float32 if "mixer" in name else torch.bfloat16), name


def test_export_never_overwrites(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(CodexRayError, match="not empty"):
        export(Export(model=str(run), output=str(tmp_path / "out")))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    with pytest.raises(CodexRayError, match="does not exist"):
        export(Export(model=str(tmp_path / "nothing"), output=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["mhc", "mhc_permutation"])
def test_a_stranger_loads_the_folder_by_its_own_code(kind: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", kind)
    folder = export(Export(model=str(run), output=str(tmp_path / "out"))).folder
    ids = tokens(2, 6)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), json.dumps(ids.tolist()), str(tmp_path / "again")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    got = json.loads(finished.stdout.splitlines()[-1])
    model = load_model(folder)
    assert got["sum"] == pytest.approx(model(ids).logits.double().sum().item(), abs=1e-3)
    generated = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert got["generated"] == generated.tolist()
    # What a stranger saves is whole again.
    assert torch.equal(load_model(tmp_path / "again")(ids).logits, model(ids).logits)
    assert (tmp_path / "again" / "mixing.py").is_file()
