from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config import saved
from codex_ray.config.compose import compose, save
from codex_ray.errors import CodexRayError

TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
NUMBER = st.floats(0, 1e30, allow_nan=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBER | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


def rerun(verb: str, chosen: object) -> object:
    with tempfile.TemporaryDirectory() as folder:
        save(chosen, Path(folder) / "config.yaml")
        return compose(verb, [], Path(folder) / "config.yaml")


@pytest.mark.parametrize("verb", ["prepare", "pretrain", "quickstart", "tokenizer train"])
def test_the_defaults_rerun_identically(verb):
    assert rerun(verb, compose(verb)) == compose(verb)


@given(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["mhc-tiny", "mhc-base", "plain-small"]),
            "schedule": st.sampled_from(["wsd", "constant"]),
            "deepspeed": st.fixed_dictionaries(
                {"config": st.dictionaries(st.text(min_size=1), PLAIN, max_size=3)}
            ),
            "optimizer": st.fixed_dictionaries({"eps": NUMBER, "learning_rate": NUMBER}),
            "track": st.fixed_dictionaries({"mlflow": st.fixed_dictionaries({"experiment": TEXT})}),
            "train": st.sampled_from([{"steps": 3}, {"epochs": 0.5}, {"seconds": 9}]),
            "seed": st.integers(1, 2**63),
            "runs": TEXT,
        }
    )
)
@settings(deadline=None, max_examples=20)
def test_any_settings_saved_rerun_identically(values):
    owned = {"train_batch_size", "optimizer", "scheduler", "bf16", "fp16", "amp", "gradient_clipping"}
    values["deepspeed"]["config"] = {
        key: value for key, value in values["deepspeed"]["config"].items() if key not in owned
    }
    chosen = compose("pretrain", values=values)
    assert rerun("pretrain", chosen) == chosen


@given(TEXT, st.lists(TEXT, max_size=3))
@settings(deadline=None, max_examples=200)
def test_any_text_is_saved_exactly(prompt, stop):
    chosen = compose("generate", ["m"], values={"prompt": prompt, "stop": stop})
    assert rerun("generate", chosen) == chosen


def test_numbers_and_dates_are_read_as_people_write_them(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: 4e-3\nb: 2026-11-20\nc: 1_000\nd: 1.5E+3\ne: -.5\nf: 4e\ng: 1.2.3\n")
    assert saved.read(path) == {
        "a": 0.004,
        "b": "2026-11-20",
        "c": 1000,
        "d": 1500.0,
        "e": -0.5,
        "f": "4e",
        "g": "1.2.3",
    }


def test_the_file_is_plain_yaml_in_the_order_of_the_classes():
    text = saved.dumps(compose("pretrain", ["corpus", "train.steps=4"]))
    assert text.startswith("corpus: corpus\nstart: null\n")
    assert yaml.safe_load(text)["train"]["steps"] == 4


def test_reading_runs_no_code(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(CodexRayError, match="not valid YAML"):
        saved.read(path)
