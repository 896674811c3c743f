"""``--submit`` against a real head node with token authentication: what arrives, the log, the status."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from codex_ray.config.saved import save
from tests.integration.training import STEPS, batches, run_settings, weights

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
FOLLOW = "import sys; from codex_ray.cluster.jobs import connect, follow; a, j = sys.argv[1:]; "


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict[str, str]

    def python(self, *words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=cwd,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def start(self, entrypoint: str) -> str:
        script = "import sys; from codex_ray.cluster.jobs import connect; a, e = sys.argv[1:]; "
        done = self.python(
            "-c", script + "print(connect(a).submit_job(entrypoint=e))", self.address, entrypoint
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def status(self, job: str) -> str:
        script = "import sys; from codex_ray.cluster.jobs import connect; a, j = sys.argv[1:]; "
        return self.python(
            "-c", script + "print(connect(a).get_job_status(j).value)", self.address, job
        ).stdout.strip()

    def stop(self, job: str) -> None:
        script = "import sys; from codex_ray.cluster.jobs import connect; a, j = sys.argv[1:]; "
        self.python("-c", script + "connect(a).stop_job(j)", self.address, job)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def end(processes: list[psutil.Process]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.is_running():
                process.send_signal(sign)
        _, processes = psutil.wait_procs(processes, timeout=5)
    assert processes == []


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # AF_UNIX paths are short, so Ray's folder cannot lie in pytest's.
    with tempfile.TemporaryDirectory(prefix="cr_") as folder:
        token = Path(folder) / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        for attempt in range(3):  # somebody else may take a port that was free a moment before
            log = Path(folder) / f"head{attempt}.log"
            found, process = started(Path(folder) / str(attempt), environment, log)
            try:
                if answers(found, process):
                    yield found
                    return
            finally:
                end([*process.children(recursive=True), process])
        raise AssertionError(log.read_text())


def started(folder: Path, environment: dict[str, str], log: Path) -> tuple[Head, psutil.Popen]:
    dashboard, client = free_ports(2)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    command += [f"--ray-client-server-port={client}", "--dashboard-agent-listen-port=0"]
    command += ["--dashboard-agent-grpc-port=0", "--num-cpus=2"]
    command += [f"--object-store-memory={100 * 2**20}", f"--temp-dir={folder}"]
    with log.open("w") as stream:
        process = psutil.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    return Head(f"http://127.0.0.1:{dashboard}", environment), process


def answers(head: Head, process: psutil.Popen) -> bool:
    """Whether it takes jobs, before long."""
    script = (
        "import sys; from codex_ray.cluster.jobs import connect\n"
        "connect(sys.argv[1]).submit_job(entrypoint='true')"
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if not head.python("-c", script, head.address).returncode:
            return True
        time.sleep(1)
    return False


def test_a_verb_runs_as_a_job_with_its_words_and_config_and_its_log_is_followed(head, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("checkpoints:\n  every: 77\n")
    # `--dry-run` among the submitted words makes the job itself print its settings and end.
    script = (
        "import sys; from codex_ray.cluster.jobs import submit\n"
        "words = ['my corpus', 'model=plain-tiny', 'train.steps=4', '--dry-run']\n"
        "sys.exit(submit(sys.argv[1], 'pretrain', words, sys.argv[2], None))"
    )
    done = head.python("-c", script, head.address, str(config))
    assert done.returncode == 0, done.stderr
    assert "corpus: my corpus\n" in done.stdout
    assert "    kind: plain\n" in done.stdout
    assert "  every: 77\n" in done.stdout
    assert "python jobs/pretrain.py 'my corpus' model=plain-tiny" in done.stderr


def test_a_job_is_run_and_stopped_by_http_as_the_docs_say(head, tmp_path):
    """The commands of docs/cluster.md, with another verb and a name of a job that is free."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    script = page.partition("### By HTTP")[2].partition("```sh\n")[2].partition("```")[0]
    start, *others = script.replace("\\\n", " ").splitlines()
    jobs = ("python -m codex_ray tokenizer --help", "sleep 60")
    (tmp_path / "token").write_text(Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text())

    def run(command: str, name: str, entrypoint: str) -> str:
        command = re.sub(r'"entrypoint": "[^"]*"', f'"entrypoint": "{entrypoint}"', command)
        command = command.replace('"first"', f'"{name}"').replace("/jobs/first", f"/jobs/{name}")
        done = subprocess.run(
            ["bash", "-c", command.replace("http://127.0.0.1:8265", head.address)],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    look, logs, stop = others
    for name, entrypoint in zip(("quick", "slow"), jobs, strict=True):
        assert json.loads(run(start, name, entrypoint))["submission_id"] == name
    deadline = time.monotonic() + 120
    while json.loads(run(look, "quick", ""))["status"] not in ("SUCCEEDED", "FAILED"):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert "tokenizer" in json.loads(run(logs, "quick", ""))["logs"]
    assert json.loads(run(look, "quick", ""))["status"] == "SUCCEEDED"
    run(stop, "slow", "")
    while json.loads(run(look, "slow", ""))["status"] != "STOPPED":
        assert time.monotonic() < deadline
        time.sleep(1)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=30)


@pytest.mark.verify
def test_a_checkout_pretrains_through_rays_own_command(head, tiny_corpus, tmp_path):
    """`ray job submit --working-dir . -- python jobs/pretrain.py ...`: logs, status, what the run leaves."""
    save(run_settings(tiny_corpus, tmp_path / "runs", "job"), tmp_path / "job.yaml")
    submit = [
        "-m",
        "ray.scripts.scripts",
        "job",
        "submit",
        "--address",
        head.address,
        "--working-dir",
        str(ROOT),
    ]
    words = [
        "python",
        "jobs/pretrain.py",
        "--config",
        str(tmp_path / "job.yaml"),
        "cluster.cpus_per_worker=0.5",
    ]
    done = head.python(*submit, "--", *words, "track.progress=plain")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pretrain" in done.stdout + done.stderr and "succeeded" in done.stdout
    assert [step for step, _ in batches(tmp_path / "runs" / "job")] == list(range(1, STEPS + 1))
    assert weights(tmp_path / "runs" / "job")
    relative = head.python(*submit, "--", *words, "runs=here")
    assert relative.returncode == 1
    assert "runs=here is relative, and a job's working folder is temporary" in relative.stdout


@pytest.mark.verify
def test_a_checkout_sweeps_through_rays_own_command(head, tiny_corpus, tmp_path):
    save(run_settings(tiny_corpus, tmp_path / "runs", "unused"), tmp_path / "base.yaml")
    submit = ["-m", "ray.scripts.scripts", "job", "submit", "--address", head.address]
    words = ["python", "jobs/sweep.py", f"base_config={tmp_path / 'base.yaml'}", f"runs={tmp_path / 'runs'}"]
    words += ["name=s", "optimizer.learning_rate=1e-3,3e-3", "sweep.search=grid", "track.progress=plain"]
    words += ["cluster.workers=1", "cluster.cpus_per_worker=0.5"]
    done = head.python(*submit, "--working-dir", str(ROOT), "--", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = json.loads((tmp_path / "runs" / "s" / "trials.json").read_text())
    assert [trial["state"] for trial in trials] == ["completed"] * 2
    assert "trials, best first" in done.stdout and (tmp_path / "runs" / "s" / "best.yaml").is_file()


def test_an_installed_package_travels_whole(head, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(ROOT / "codex_ray", site / "codex_ray", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", site / "codex_ray" / "configs")
    script = (
        "import sys; from codex_ray.cluster.jobs import submit\n"
        "sys.exit(submit(sys.argv[1], 'pretrain', ['seed=5', '--dry-run'], None, None))"
    )
    done = head.python("-c", script, head.address, cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert "python -m codex_ray pretrain seed=5" in done.stderr
    assert "\nseed: 5\n" in done.stdout


def test_a_failing_job_returns_its_own_status_and_sentence(head, tmp_path):
    script = (
        "import sys; from codex_ray.cluster.jobs import submit\n"
        "sys.exit(submit(sys.argv[1], 'pretrain', ['stepz=4'], None, None))"
    )
    done = head.python("-c", script, head.address)
    assert done.returncode == 2
    assert "codex-ray: error: unknown setting 'stepz'" in done.stdout


def test_the_command_line_submits_and_says_where_relative_folders_go(head, tmp_path):
    words = ["prepare", str(tmp_path / "no-such-text"), "--submit", head.address]
    done = head.python("-m", "codex_ray", *words)
    assert done.returncode in (1, 2)
    assert "codex-ray: note: output=corpus lies in the job's own copy" in done.stderr
    assert "codex-ray: error:" in done.stdout
    assert "no-such-text" in done.stdout


def test_a_stopped_job_is_status_130(head):
    job = head.start("echo begun; sleep 100")
    process = follower(head, job)
    head.stop(job)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out.count("begun") == 0  # read already by the fixture: nothing is printed twice


def test_ctrl_c_stops_following_and_leaves_the_job(head):
    job = head.start("echo begun; sleep 100")
    process = follower(head, job)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"job {job} goes on; stop it with `ray job stop --address {head.address} {job}`" in err
    assert "Traceback" not in err
    assert head.status(job) == "RUNNING"
    head.stop(job)


def follower(head: Head, job: str) -> subprocess.Popen[str]:
    """Follow a job in a process of its own, up to the job's first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOW + "sys.exit(follow(connect(a), j, a))", head.address, job],
        cwd=ROOT,
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line == "begun\n":
            return process
    raise AssertionError(process.communicate()[1])


def test_the_address_given_wins_over_the_environment(head):
    done = head.python(
        "-c",
        "import sys; from codex_ray.cluster.jobs import connect; connect(sys.argv[1]).list_jobs()",
        head.address.removeprefix("http://"),
        RAY_ADDRESS="http://127.0.0.1:9",
        RAY_API_SERVER_ADDRESS="http://127.0.0.1:9",
    )
    assert done.returncode == 0, done.stderr


def test_a_wrong_token_and_a_wrong_address_are_one_sentence(head):
    words = ["-m", "codex_ray", "export", "m", "output=/x", "--submit"]
    wrong = head.python(*words, head.address, RAY_AUTH_TOKEN="0" * 64)
    assert wrong.returncode == 1
    assert "refuses the token; set RAY_AUTH_MODE=token" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    (port,) = free_ports(1)
    nothing = head.python(*words, f"http://127.0.0.1:{port}")
    assert nothing.returncode == 1
    assert "nothing answers at" in nothing.stderr
    assert "Traceback" not in nothing.stderr


def test_a_run_is_stopped_followed_and_gone_on_with_by_its_name(head, tmp_path):
    """The drivers are `doctor`s and sleeping ones: what is looked at is names, states and metadata."""
    env = {"PYTHONPATH": str(ROOT)}

    def jobs(*words: str) -> subprocess.CompletedProcess[str]:
        return head.python("-m", "codex_ray", "jobs", *words, f"address={head.address}", **env)

    script = (
        "import sys; from codex_ray.cluster.jobs import connect; "
        "print(connect(sys.argv[1]).submit_job(entrypoint=sys.argv[2], metadata={'verb': sys.argv[3], "
        "'name': sys.argv[4], 'folder': sys.argv[5]}))"
    )
    driver = "trap 'echo last checkpoint; exit 130' TERM; echo begun; while :; do sleep 0.2; done"
    folder = str(tmp_path / "runs" / "first")
    started = head.python("-c", script, head.address, driver, "pretrain", "first", folder)
    assert started.returncode == 0, started.stderr
    listed = jobs("list")
    assert re.search(rf"first\W+pretrain\W.*{started.stdout.strip()}", listed.stdout), listed
    deadline = time.monotonic() + 60
    while head.status(started.stdout.strip()) != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    stopped = jobs("stop", "first")
    assert stopped.returncode == 0 and "of run first has stopped" in stopped.stdout, stopped.stderr
    again = jobs("stop", "first")
    assert (again.returncode, "has ended (STOPPED); there is nothing to stop" in again.stderr) == (1, True)
    followed = jobs("follow", "first")
    assert followed.returncode == 1 and "begun" in followed.stdout
    assert "the job of run first ended with status 130" in followed.stderr
    wrong = jobs("resume", "frist")
    assert (wrong.returncode, "did you mean 'first'?" in wrong.stderr) == (1, True)
    resumed = jobs("resume", "first")  # whose folder has no settings
    assert f"--config {folder}/config.yaml resume=must" in resumed.stderr
    assert resumed.returncode == 1 and "config.yaml" in resumed.stdout


@pytest.mark.verify
def test_a_training_and_its_evaluation_by_curl_and_python_and_a_killed_driver(head, tiny_corpus, tmp_path):
    """The documented commands with real verbs; a driver that is killed is picked up by its run's name."""
    runs = tmp_path / "runs"
    save(run_settings(tiny_corpus, runs, "first"), tmp_path / "first.yaml")
    (tmp_path / "token").write_text(Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text())
    words = ["pretrain", "--config", str(tmp_path / "first.yaml"), "cluster.cpus_per_worker=0.5"]
    words += ["resume=auto", "checkpoints.every=2", "train.steps=40", "track.progress=plain"]
    submit = subprocess.Popen(
        [sys.executable, "-m", "codex_ray", *words, "--submit", head.address],
        cwd=ROOT, env=head.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while len(batches(runs / "first")) < 5 if (runs / "first" / "metrics.jsonl").exists() else True:
        assert submit.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    place = str(Path(head.environment["RAY_AUTH_TOKEN_PATH"]).parent)
    drivers = [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if "jobs/pretrain.py" in (process.info["cmdline"] or []) and place in (process.info["cwd"] or "")
    ]
    assert drivers
    for driver in drivers:
        driver.kill()
    told = submit.communicate(timeout=250)[0]
    assert submit.returncode == 0, told
    assert "the driver of job" in told and "its run first goes on in another" in told
    assert [step for step, _ in batches(runs / "first")] == list(range(1, 41))
    page = (ROOT / "docs" / "cluster.md").read_text()
    program = page.partition("### By HTTP")[2].partition("```python\n")[2].partition("```")[0]
    words = ["evaluate", f"{runs}/first", f"corpus={tiny_corpus}", f"output={tmp_path}/measured"]
    entrypoint = shlex.join(["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "codex_ray", *words])
    program = re.sub(r'"python -m codex_ray evaluate [^"]*"', json.dumps(entrypoint), program)
    done = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:8265", head.address)],
        cwd=tmp_path, env={**head.environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    while head.status(done.stdout.strip()) not in ("SUCCEEDED", "FAILED"):
        assert time.monotonic() < deadline + 300
        time.sleep(1)
    assert head.status(done.stdout.strip()) == "SUCCEEDED"
    assert json.loads((tmp_path / "measured" / "summary.json").read_text())["bits_per_byte"] > 0
