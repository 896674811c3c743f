from __future__ import annotations

import pytest

from codex_ray.config.compose import compose
from codex_ray.config.sweep import Sweep
from codex_ray.errors import ConfigError


def test_words_are_told_apart() -> None:
    settings: Sweep = compose(
        "sweep",
        [
            "corpus",
            "train.steps=50",
            "optimizer.learning_rate=1e-3,2e-3",
            "model=mhc-tiny,plain-tiny",
            "schedule.final_share=interval(0,0.5)",
            "seed=range(1,4)",
            "sweep.search=random",
            "data.path=a,b",
            "name=mine",
        ],
    )
    assert settings.paths == ["corpus"] and settings.name == "mine"
    assert settings.run == {"train.steps": "50"}
    assert settings.sweep.space == {
        "optimizer.learning_rate": [1e-3, 2e-3],
        "model": ["mhc-tiny", "plain-tiny"],
        "schedule.final_share": {"uniform": [0, 0.5]},
        "seed": [1, 2, 3],
        "data.path": ["a", "b"],
    }


def test_words_are_laid_over_a_group_and_quoted_text_is_one_value() -> None:
    settings: Sweep = compose(
        "sweep", ["sweep=residual", "model.layers=2,3", "data.glob='*.py,*.md'", "sweep.trials=3"]
    )
    assert set(settings.sweep.space) == {"optimizer.learning_rate", "model.residual.kind", "model.layers"}
    assert settings.sweep.trials == 3 and settings.sweep.scheduler == "asha"
    assert settings.run == {"data.glob": "'*.py,*.md'"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["seed=1,2", "sweep.trails=3"], "did you mean 'sweep.trials'?"),
        (["seed=interval(a,b)"], "seed=interval(a,b) is not understood"),
        (["seed=1,2", "sweep=larning_rate"], "did you mean 'learning_rate'?"),
        (["seed=1,2", "base=prepare"], "must be one of pretrain, finetune, discover"),
        (["seed=1,2", "sweep.metrics=[a,b]", "sweep.modes=[min,min]"], "needs sweep.search=tpe"),
        (["seed=1,2", "sweep.metrics=[a,b]"], "give min or max for each"),
        (["seed=1,2", "sweep.metrics=[a,a]", "sweep.modes=[min,min]"], "names one twice"),
        (
            [
                "seed=1,2",
                "sweep.metrics=[a,b]",
                "sweep.modes=[min,min]",
                "sweep.search=tpe",
                "sweep.scheduler=asha",
            ],
            "give sweep.scheduler=none",
        ),
        (["seed=1,2", "sweep.grace_tokens=5"], "add sweep.scheduler=asha"),
        (["seed=1,2", "sweep.grace_tokens=5", "sweep.scheduler=pbt"], "add sweep.scheduler=asha"),
        (["seed=1,2", "sweep.segment_steps=5"], "add sweep.scheduler=pbt"),
        (["seed=1,2", "sweep.search=tpe", "sweep.scheduler=pbt"], "give sweep.search=random or grid"),
    ],
)
def test_what_cannot_be_is_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("sweep", words)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
