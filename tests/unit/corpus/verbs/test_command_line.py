from __future__ import annotations

import pytest

from codex_ray import cli
from codex_ray.config.verbs import VERBS

NEEDED = {
    "corpus diff": ["a", "b"],
    "corpus merge": ["corpora=[a,b]", "output=c", "weights={web:2,code:1.5}"],
    "corpus rows": ["runs/first", "step=2"],
    "corpus find": ["corpus", "name='*.py'"],
    "corpus remove": ["corpus", "output=c", "names=[a,'b c']"],
}


@pytest.mark.parametrize("verb", [name for name in VERBS if name.startswith("corpus ")])
def test_a_dry_run_prints_what_reruns_identically(verb, tmp_path, capsys):
    assert cli.main([*verb.split(), *NEEDED.get(verb, []), "--dry-run"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(text)
    assert cli.main([*verb.split(), "--config", str(tmp_path / "config.yaml"), "--dry-run"]) == 0
    assert capsys.readouterr().out == text


def test_two_paths_are_taken_in_order_and_no_third(capsys):
    assert cli.main(["corpus", "diff", "a", "b", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("first: a\nsecond: b\n")
    assert cli.main(["corpus", "diff", "a", "b", "c", "--dry-run"]) == 2
    assert "'c' is not understood: corpus diff takes 2 PATHs (first, second)" in capsys.readouterr().err
    assert cli.main(["corpus", "merge", "a", "--dry-run"]) == 2
    assert "corpus merge takes no PATH" in capsys.readouterr().err
    assert cli.main(["corpus", "diff", "--help"]) == 0
    out = capsys.readouterr().out
    assert "codex-ray corpus diff [FIRST] [SECOND]" in out
    assert "A bare PATH sets first, the next one second." in out


@pytest.mark.parametrize(
    "words",
    [
        ["show"],
        ["verify"],
        ["diff", "none", "none"],
        ["merge", "corpora=[none,other]", "output=c"],
        ["rows", "step=1", "corpus=none", "batch_rows=4"],
        ["find", "name=a"],
        ["remove", "none", "output=c", "names=[a]"],
    ],
)
def test_a_corpus_that_is_not_there_is_one_sentence(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["corpus", *words]) == 1
    out, err = capsys.readouterr()
    assert "does not exist; make it with codex-ray prepare output=" in err
    assert (out, err.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []
