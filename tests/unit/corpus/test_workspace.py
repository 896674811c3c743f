from __future__ import annotations

from pathlib import Path

import pytest

from codex_ray.corpus.workspace import Workspace, check_output
from codex_ray.errors import CodexRayError, ConfigError


def fill(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(text)


def test_the_new_folder_takes_the_place_of_the_old(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "corpus")
    for text in ("first", "second"):
        with work.hold():
            fill(work.folder / "packed" / text, text)
            work.finish(work.folder / "packed" / text)
        assert (tmp_path / "corpus" / "manifest.json").read_text() == text
    work.forget()
    with work.hold():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_failure_leaves_the_old_folder_and_the_stages(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "corpus")
    fill(work.output, "old")
    with pytest.raises(KeyError), work.hold():
        fill(work.folder / "read" / "1", "new")
        raise KeyError("stop")
    assert (work.output / "manifest.json").read_text() == "old"
    assert (work.folder / "read" / "1" / "manifest.json").read_text() == "new"


def test_a_run_killed_between_the_two_renames_gives_the_old_folder_back(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "corpus")
    fill(work.folder / "old", "old")
    with work.hold():
        assert (work.output / "manifest.json").read_text() == "old"


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "corpus")
    with work.hold():
        fill(work.folder / "read", "mine")
        with pytest.raises(CodexRayError, match="is in use by process"), Workspace(work.output).hold():
            raise AssertionError("two prepares at work")
        assert (work.folder / "read" / "manifest.json").read_text() == "mine"


def test_outputs_that_would_destroy_something_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "home" / "text"
    fill(text, "text")
    (tmp_path / "home" / "letter.txt").write_text("dear")
    for output, words in ((text, "holds the text"), (tmp_path / "home", "holds the text")):
        with pytest.raises(ConfigError, match=words):
            check_output(output, [text])
    fill(tmp_path / "other" / "sub", "x")
    with pytest.raises(ConfigError, match="is no corpus"):
        check_output(tmp_path / "other", [text])
    with pytest.raises(ConfigError, match="is a file"):
        check_output(tmp_path / "home" / "letter.txt", [text])
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty", [text])
    check_output(tmp_path / "missing", [text])
