from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from codex_ray.config.compose import compose
from codex_ray.config.groups import composed, configs_folder, group_choices, verb_slots
from codex_ray.config.train import Pretrain
from codex_ray.config.verbs import find_verb
from codex_ray.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
VERBS_WITH_GROUPS = (
    *("prepare", "pretrain", "finetune", "discover", "discover ablation", "plan", "quickstart"),
    *("tokenizer train", "sweep"),
)


def refusal(verb: str, *words: str, **keywords: object) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(verb, words, **keywords)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_importing_settings_imports_neither_torch_nor_ray():
    script = (
        "import sys, codex_ray, codex_ray.cli, codex_ray.config.help\n"
        "from codex_ray.config.compose import compose\n"
        "compose('pretrain', ['model=mhc-small'])\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'transformers', 'mlflow', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", VERBS_WITH_GROUPS)
def test_the_defaults_of_each_verb_are_sound(verb):
    assert isinstance(compose(verb), find_verb(verb).settings_class)
    assert verb_slots(verb)


def every_choice() -> list[tuple[str, str, str]]:
    return [
        (verb, slot.group, choice)
        for verb in VERBS_WITH_GROUPS
        for slot in verb_slots(verb)
        for choice in group_choices(slot.group)
    ]


@pytest.mark.parametrize(("verb", "group", "choice"), sorted(set(every_choice())))
def test_every_shipped_choice_composes_and_passes_the_checks(verb, group, choice):
    words = [f"{group}={choice}"]
    if group == "deepspeed" and choice == "zero0":
        words.append("pretrain.compute.dtype=float32" if verb == "quickstart" else "compute.dtype=float32")
    if group == "deepspeed" and choice in ("zero3-nvme", "zeropp"):
        section = "pretrain." if verb == "quickstart" else ""
        words += [f"{section}cluster.workers=8", f"{section}cluster.gpus_per_worker=1"]
        words += [f"{section}train.batch_tokens=65536", f"{section}optimizer.kind=adamw"]
    if (verb, group) == ("quickstart", "schedule") and choice in ("cosine", "linear"):
        words.append("pretrain.train.steps=20")
    compose(verb, words)


@pytest.mark.parametrize("path", sorted(configs_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_is_reached_by_some_verb_and_says_what_it_is_for(path):
    relative = path.relative_to(configs_folder())
    groups = {slot.group for verb in VERBS_WITH_GROUPS for slot in verb_slots(verb)}
    read = relative.parts[0] in groups or path.stem.replace("_", " ") in VERBS_WITH_GROUPS
    read |= path.stem == "components"  # of codex_ray.plugins
    assert read or (relative.parts[0] == "benchmarks" and find_spec(f"benchmarks.{path.stem}") is not None)
    comments = [
        line for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line
    ]
    assert comments


def test_groups_set_sections_and_words_set_single_values_over_them():
    settings = compose("pretrain", ["text-corpus", "model=mhc-small", "optimizer=muon", "model.layers=3"])
    assert isinstance(settings, Pretrain)
    assert (settings.corpus, settings.model.hidden_size, settings.model.layers) == ("text-corpus", 512, 3)
    assert (settings.optimizer.kind, settings.optimizer.learning_rate) == ("muon", 6e-3)


def test_a_group_used_in_several_places_sets_each_and_its_section_names_one():
    both = compose("quickstart", ["cluster=join"])
    assert both.prepare.cluster.address == both.pretrain.cluster.address == "auto"
    one = compose("quickstart", ["pretrain.cluster=join", "model@pretrain.model=plain-tiny"])
    assert (one.prepare.cluster.address, one.pretrain.cluster.address) == (None, "auto")
    assert one.pretrain.model.residual.kind == "plain"


def test_a_whole_run_yields_to_groups_and_words_on_the_command_line():
    settings = compose("pretrain", ["recipe=quickstart", "optimizer=adamw", "checkpoints.every=7"])
    assert (settings.schedule.kind, settings.optimizer.kind) == ("wsd", "adamw")
    assert (settings.checkpoints.every, settings.validation.every) == (7, 250)


def test_the_quickstart_recipe_is_the_training_of_the_quickstart():
    life = compose("quickstart")
    recipe = compose("pretrain", ["recipe=quickstart", f"train.seconds={life.seconds}"])
    for section in ("model", "optimizer", "schedule", "deepspeed", "checkpoints", "validation", "cluster"):
        assert getattr(recipe, section) == getattr(life.pretrain, section), section
    assert recipe.train.batch_tokens == life.pretrain.train.batch_tokens


def test_choosing_one_length_of_training_unsets_the_others():
    assert compose("pretrain").train.epochs == 1.0
    train = compose("pretrain", ["train.steps=20"]).train
    assert (train.steps, train.epochs, train.seconds) == (20, None, None)
    assert "exactly one of" in refusal("pretrain", "train.steps=20", "train.epochs=1")


def test_composing_twice_leaves_nothing_behind():
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    assert compose("pretrain", ["model=mhc-base"]) != compose("pretrain") == compose("pretrain")
    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(configs_folder()), version_base="1.3"):
        compose("pretrain", ["model=mhc-base"])
        assert hydra_compose("pretrain").model.hidden_size == 192


@pytest.mark.parametrize(
    ("verb", "word", "sentence"),
    [
        ("pretrain", "seed=abc", "'seed' must be a whole number, not 'abc' (text)"),
        ("pretrain", 'train.steps="4"', "'train.steps' must be a whole number or null, not '4' (text)"),
        ("pretrain", "train.steps=4.0", "not 4.0 (a number); values are never converted"),
        ("pretrain", "train.steps=true", "not True (true or false)"),
        ("pretrain", "track.report=yes", "'track.report' must be true or false, not 'yes'"),
        ("pretrain", "optimizer.learning_rate=nan", "must be finite"),
        ("pretrain", "learning_rate=1", "did you mean 'optimizer.learning_rate'?"),
        ("pretrain", "train.stpes=1", "did you mean 'train.steps'?"),
        ("pretrain", "modle=mhc-tiny", "did you mean 'model'?"),
        ("pretrain", "optimiser=adamw", "did you mean 'optimizer'?"),
        ("pretrain", "zzz=1", "unknown setting 'zzz'; --help lists them all"),
        ("pretrain", "model.residual.kinds=hc", "did you mean 'model.residual.kind'?"),
        ("pretrain", "model.layers.deep=1", "unknown setting 'model.layers.deep'"),
        (
            "pretrain",
            "model=mhc-tinny",
            "unknown choice 'mhc-tinny' of group 'model'; did you mean 'mhc-tiny'?",
        ),
        ("pretrain", "model=", "unknown choice '' of group 'model' (one of mhc-120m"),
        ("pretrain", "train=5", "'train' must be a group of settings"),
        ("pretrain", "train.steps=1,2", "a list is written [a,b]"),
        ("pretrain", "train.steps=[", "cannot be read"),
        ("pretrain", "compute.device=gpu", "'compute.device' must be one of auto, cpu, cuda, not 'gpu'"),
        ("quickstart", "pretrain.optimizer.lr=1", "unknown setting 'pretrain.optimizer.lr'"),
        ("evaluate", "files=a.txt", "'files' must be a list of text, not 'a.txt'"),
    ],
)
def test_a_wrong_word_ends_in_one_sentence_naming_the_nearest(verb, word, sentence):
    words = ["runs/x", word] if verb == "evaluate" else [word]
    assert sentence in refusal(verb, *words)


def test_unknown_verbs_name_the_nearest():
    assert "did you mean 'pretrain'?" in refusal("pretrian")
    assert "needs one of train, encode, decode, export" in refusal("tokenizer")
    assert "did you mean 'train'?" in refusal("tokenizer trian")


def test_one_path_fills_the_main_setting_and_a_second_is_refused():
    assert compose("prepare", ["my text/folder"]).text == "my text/folder"
    assert compose("generate", ["./a=b", "prompt=x"]).model == "./a=b"
    assert "takes one PATH (corpus)" in refusal("pretrain", "one", "two")


def test_seeds_are_never_unset_or_zero():
    life = compose("quickstart", ["seed=0", "pretrain.seed=null", "prepare.seed=7"])
    assert (life.seed, life.pretrain.seed, life.prepare.seed) == (1234, 1234, 7)
    assert "not False" in refusal("pretrain", "seed=false")


@given(st.text())
def test_a_text_setting_takes_the_word_as_it_stands(text):
    assume(text != "null" and not (len(text) > 1 and text[0] == text[-1] and text[0] in "'\""))
    assert compose("generate", ["m", f"prompt={text}"]).prompt == text


def test_quote_marks_around_a_whole_text_are_taken_off_and_null_unsets():
    assert compose("generate", ["m", "prompt='null'"]).prompt == "null"
    assert compose("generate", ["m", "prompt=null"]).prompt is None
    assert compose("generate", ["m", "prompt='a' + 'b'"]).prompt == "'a' + 'b'"


def test_lists_and_mappings_may_be_json_or_bare():
    assert compose("evaluate", ["m", "files=[a.py,b c.py]"]).files == ["a.py", "b c.py"]
    assert compose("generate", ["m", 'stop=["\\n\\n","def "]']).stop == ["\n\n", "def "]
    assert compose("pretrain", ["optimizer.betas=[0.8,0.9]"]).optimizer.betas == [0.8, 0.9]
    words = [
        "deepspeed.config.zero_optimization.offload_optimizer.device=cpu",
        "deepspeed.config.steps_per_print=9",
    ]
    assert compose("pretrain", words).deepspeed.config == {
        "zero_optimization": {"offload_optimizer": {"device": "cpu"}},
        "steps_per_print": 9,
    }


def test_plain_values_from_python_are_laid_over_the_words():
    settings = compose(
        "pretrain",
        ["train.steps=5"],
        values={"model": "plain-tiny", "train": {"epochs": 2}, "corpus": "here"},
    )
    assert settings.model.residual.kind == "plain"
    assert (settings.train.steps, settings.train.epochs, settings.corpus) == (None, 2.0, "here")
    assert "'seed' must be a whole number" in refusal("pretrain", values={"seed": "1"})
    assert "did you mean 'train.steps'?" in refusal("pretrain", values={"train": {"stpes": 1}})


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_lies_over_the_defaults_and_under_the_words(tmp_path):
    path = write(
        tmp_path,
        "defaults:\n  - model: mhc-small\n  - recipe: quickstart\n"
        "model:\n  layers: 2\noptimizer:\n  learning_rate: 1e-3\ntrain:\n  steps: 9\n",
    )
    settings = compose("pretrain", ["optimizer.eps=1e-6"], path)
    assert (settings.model.hidden_size, settings.model.layers) == (512, 2)
    assert (settings.optimizer.kind, settings.optimizer.learning_rate, settings.optimizer.eps) == (
        "muon",
        1e-3,
        1e-6,
    )
    assert (settings.train.steps, settings.train.seconds, settings.train.epochs) == (9, None, None)
    chosen = compose("pretrain", ["model=mhc-base", "train.steps=3"], path)
    assert (chosen.model.layers, chosen.train.steps) == (24, 3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train:\n  stesp: 3\n", "unknown setting 'train.stesp' in "),
        ("defaults:\n  - modle: mhc-tiny\n", "names the unknown group 'modle'; did you mean 'model'?"),
        ("defaults:\n  - model: tiny\n", "unknown choice 'tiny' of group 'model'"),
        ("defaults: mhc-tiny\n", "must be a list of `- group: choice` lines"),
        ("defaults:\n  - mhc-tiny\n", "each line must be `- group: choice`"),
        ("seed: '5'\n", "'seed' must be a whole number, not '5' (text)"),
        ("- a\n- b\n", "must hold `key: value` lines, not list"),
        ("a: [1\n", "is not valid YAML at line"),
        ("seed: 1\nseed: 2\n", "the key 'seed' is given twice"),
        ("a: \x00\n", "is not valid YAML"),
    ],
)
def test_a_wrong_file_ends_in_one_sentence(tmp_path, text, sentence):
    assert sentence in refusal("pretrain", config_file=write(tmp_path, text))


def test_a_missing_file_and_one_that_is_not_text_are_named(tmp_path):
    assert "does not exist" in refusal("pretrain", config_file=tmp_path / "none.yaml")
    assert "cannot be read" in refusal("pretrain", config_file=tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    assert "cannot be read" in refusal("pretrain", config_file=tmp_path / "latin.yaml")


def test_a_whole_run_cannot_be_chosen_over_a_file(tmp_path):
    path = write(tmp_path, "seed: 5\n")
    assert "under `defaults` in that file" in refusal("pretrain", "recipe=smoke", config_file=path)


def test_the_shipped_yaml_sets_only_settings_that_exist():
    # `composed` is what the files say, before the classes; a dead key in it would be an error in every run.
    for verb in VERBS_WITH_GROUPS:
        assert set(composed(verb, {})) <= {*compose(verb).__dataclass_fields__}
