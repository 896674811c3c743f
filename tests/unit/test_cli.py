from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import codex_ray
from codex_ray import cli
from codex_ray.config.compose import compose
from codex_ray.config.verbs import VERBS, Verb
from codex_ray.errors import CodexRayError, ConfigError, Interrupted

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


def fail_plainly(settings: object) -> None:
    raise CodexRayError("shard 3 is truncated; prepare the corpus again")


def fail_by_usage(settings: object) -> None:
    raise ConfigError("4 workers asked, 2 CPUs there; give cluster.workers=2")


def stop(settings: object) -> None:
    raise Interrupted("stopped at step 7; run it again with resume=auto")


def fail_by_mistake(settings: object) -> None:
    raise ZeroDivisionError("division\nby zero")


def fail_in_a_worker(settings: object) -> None:
    from ray.exceptions import RayTaskError

    raise RayTaskError("prepare", "Traceback ...", ConfigError("no text in books")).as_instanceof_cause()


def give_back(settings: object) -> object:
    return settings


def wait(settings: object) -> None:
    print("waiting", flush=True)
    time.sleep(60)


@pytest.fixture
def verb(monkeypatch):
    """Add a verb named ``try`` that runs a function of this file; the rest of the command line is real."""

    def add(function: object) -> None:
        monkeypatch.setitem(
            VERBS,
            "try",
            Verb(
                "try", "codex_ray.config.use:Generate", f"{__name__}:{function.__name__}", "model", "", "", ()
            ),
        )

    return add


def run(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("function", "status", "sentence"),
    [
        (fail_plainly, 1, "shard 3 is truncated; prepare the corpus again"),
        (fail_by_usage, 2, "4 workers asked, 2 CPUs there; give cluster.workers=2"),
        (stop, 130, "stopped at step 7; run it again with resume=auto"),
        (fail_in_a_worker, 2, "no text in books"),
        (fail_by_mistake, 1, "ZeroDivisionError: division by zero; this is a bug of codex-ray"),
    ],
)
def test_a_failing_run_ends_in_one_sentence_and_its_status(verb, capsys, function, status, sentence):
    verb(function)
    assert cli.main(["try", "runs/x"]) == status
    out, err = capsys.readouterr()
    assert err.startswith(f"codex-ray: error: {sentence}")
    assert (out, err.count("\n")) == ("", 1)


def test_the_traceback_is_shown_when_asked_for(verb, capsys, monkeypatch):
    verb(fail_by_mistake)
    monkeypatch.setenv("CODEX_RAY_TRACEBACK", "1")
    assert cli.main(["try", "runs/x"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "in fail_by_mistake" in err


def test_a_verb_gets_its_settings_and_python_gets_its_result(verb):
    verb(give_back)
    assert cli.main(["try", "runs/x", "top_k=5"]) == 0
    settings = codex_ray._call("try", "runs/x", "top_k=5", compute={"device": "cpu"}, stop=["\n"])
    assert settings == compose("generate", ["runs/x", "top_k=5", "compute.device=cpu", 'stop=["\\n"]'])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pretrian"], "unknown verb 'pretrian'; did you mean 'pretrain'?"),
        (["pretrain", "--dryrun"], "unknown option '--dryrun'; did you mean '--dry-run'?"),
        (["pretrain", "--train.steps=4"], "settings are given without dashes, as key=value"),
        (["pretrain", "--config"], "--config needs a value after it"),
        (["pretrain", "--config", "none.yaml"], "configuration file none.yaml does not exist"),
        (["pretrain", "stepz=4"], "unknown setting 'stepz'"),
        (["tokenizer"], "verb 'tokenizer' needs one of train, encode, decode, export"),
        (["tokenizer", "trian", "--help"], "did you mean 'train'?"),
        (["generate", "--dry-run"], "setting 'model' is needed"),
    ],
)
def test_bad_usage_is_one_sentence_and_status_2(capsys, words, sentence):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert sentence in err
    assert (out, err.count("\n")) == ("", 1)


def test_a_dry_run_prints_what_reruns_identically(capsys, tmp_path):
    assert cli.main(["pretrain", "here", "model=mhc-small", "train.steps=4", "--dry-run"]) == 0
    text = capsys.readouterr().out
    saved = tmp_path / "config.yaml"
    saved.write_text(text)
    assert cli.main(["pretrain", f"--config={saved}", "--dry-run"]) == 0
    assert capsys.readouterr().out == text
    assert cli.main(["pretrain", "--config", str(saved), "train.steps=5", "--dry-run"]) == 0
    assert capsys.readouterr().out == text.replace("steps: 4", "steps: 5")


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], ["pretrain", "--help"], ["pretrain", "x", "a=1", "-h"]]
)
def test_help_is_status_0(capsys, words):
    assert cli.main(words) == 0
    assert "Usage: codex-ray" in capsys.readouterr().out


def test_no_words_show_the_overview_and_are_bad_usage(capsys):
    assert cli.main([]) == 2
    assert "Verbs, in the order of a model's life" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"codex-ray {codex_ray.__version__}\n"


def test_every_verb_has_a_script_in_jobs_that_takes_the_same_words(tmp_path):
    assert {verb.split(" ")[0] for verb in VERBS} == set(JOBS)


@pytest.mark.parametrize("job", ["prepare", "pretrain", "quickstart"])
def test_a_job_script_runs_from_anywhere_without_installation(job, tmp_path):
    done = run(str(ROOT / "jobs" / f"{job}.py"), "--dry-run", "seed=0", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nseed: 1234\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_installed_layout_works_in_an_empty_folder(tmp_path):
    # A wheel holds the configs inside the package, and nothing else of the checkout.
    site, empty = tmp_path / "site", tmp_path / "empty"
    shutil.copytree(ROOT / "codex_ray", site / "codex_ray", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", site / "codex_ray" / "configs")
    empty.mkdir()
    words = ["-m", "codex_ray", "pretrain", "model=mhc-base", "--dry-run"]
    installed = run(*words, cwd=empty, PYTHONPATH=str(site))
    checkout = run(*words, cwd=ROOT)
    assert (installed.returncode, installed.stderr) == (0, "")
    assert installed.stdout == checkout.stdout


def test_a_reader_that_leaves_ends_it_quietly():
    command = f"{sys.executable} -m codex_ray quickstart --help | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("codex-ray quickstart")
    assert done.stderr == ""


def test_ctrl_c_is_status_130(popen):
    script = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
        "import test_cli\n"
        "from codex_ray import cli\n"
        "from codex_ray.config.verbs import VERBS, Verb\n"
        "VERBS['try'] = Verb('try', 'codex_ray.config.use:Generate', 'test_cli:wait', 'model', '', '', ())\n"
        "sys.exit(cli.main(['try', 'runs/x']))"
    )
    process = popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "codex-ray: error: interrupted\n")


def test_verbs_of_the_package_stay_callable_beside_submodules_of_their_name():
    script = (
        "import codex_ray, sys\n"
        "import codex_ray.evaluate\n"
        "names = ['prepare', 'pretrain', 'evaluate', 'generate', 'export', 'quickstart', 'load']\n"
        "print([callable(getattr(codex_ray, name)) for name in names if name != 'quickstart'])\n"
        "print(codex_ray.evaluate is sys.modules['codex_ray.evaluate'])\n"
        "try: codex_ray.evaluate('m')\n"
        "except codex_ray.errors.ConfigError as error: print(error)\n"
        "try: codex_ray.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = run("-c", script, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        str([True] * 6),
        "True",
        "neither of corpus and files given; name one thing to measure: corpus=FOLDER, files=[FILE,...], "
        "tasks=[NAME,...] or predictions=FILE",
        "module 'codex_ray' has no attribute 'nothing'",
    ]
