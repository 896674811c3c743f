"""A corpus prepared by jobs on two nodes, undisturbed and with a worker, a node or the driver killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from codex_ray.cluster.local import up
from codex_ray.cluster.local_cluster import LocalCluster
from codex_ray.config.cluster import ClusterUp
from codex_ray.config.corpus import Clean, Duplicates
from codex_ray.config.saved import save
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.prepare import prepare
from tests.cluster.clients import ROOT, environment, states
from tests.integration.training import corpus_settings

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

WORDS = "the be to of and that have with one all would there their what so up out who"
FILES, FILE_WORDS = 80, 70_000  # 5 parts of 8 MiB, each seconds of work: Gopher's rules are slow
TASK = "ray::MapBatches"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "text"
    folder.mkdir()
    random = np.random.default_rng(5)
    words = np.array([*WORDS.split(), *("".join(random.choice(list("aeioustrnlm"), 7)) for _ in range(2000))])
    for number in range(FILES):
        lines = random.choice(words, (FILE_WORDS // 10, 10)).tolist()
        (folder / f"{number:03d}.txt").write_text("\n".join(" ".join(line) + "." for line in lines))
    return folder


def settings_of(text: Path, output: Path) -> Any:
    return corpus_settings(
        text,
        output,
        workers=4,
        clean=Clean(gopher_repetition=True, max_bytes=2**22),
        duplicates=Duplicates(near=True),
    )


@pytest.fixture(scope="module")
def expected(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one machine makes of it."""
    settings = settings_of(text, tmp_path_factory.mktemp("alone") / "corpus")
    return hashes(prepare(replace(settings, workers=2)).folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        tempfile.TemporaryDirectory() as folder,
        up(ClusterUp(folder=f"{folder}/cluster", cpus_per_node=2)) as cluster,
    ):
        yield cluster


def hashes(folder: Path) -> dict[str, str]:
    manifest = Manifest.load(folder)
    manifest.verify(deep=True)
    return {info.path: info.sha256 for info in manifest.files()} | {"fingerprint": manifest.fingerprint}


def processes(
    cluster: LocalCluster, index: int, is_wanted: Callable[[list[str]], bool]
) -> list[psutil.Process]:
    """Return the processes of a node whose command is wanted."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        node = psutil.Process(cluster.nodes[index].process.pid)  # type: ignore[union-attr]
        for child in node.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if is_wanted(child.cmdline()):
                    found.append(child)
    return found


def tasks_of(cluster: LocalCluster, index: int) -> list[psutil.Process]:
    """Return the task processes of a node that are at work."""
    return processes(cluster, index, lambda command: "".join(command[:1]).startswith(TASK))


class Job:
    """A prepare submitted as a job; its log goes to a file."""

    def __init__(self, cluster: LocalCluster, text: Path, folder: Path) -> None:
        self.cluster, self.output = cluster, folder / "corpus"
        config = folder / "prepare.yaml"
        save(settings_of(text, self.output), config)
        self.log = folder / "log"
        submit = ["--submit", cluster.state.dashboard]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "codex_ray", "prepare", "--config", str(config), *submit],
                cwd=ROOT,
                env=environment(cluster),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until something is true of the running job; returns it."""
        deadline = time.monotonic() + 300
        while not (found := condition()):
            assert self.process.poll() is None, f"ended before {what}: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{what} never came: {self.log.read_text()[-3000:]}"
            time.sleep(0.05)
        return found

    def reading(self) -> bool:
        """Tell whether a part was read and another is being read."""
        read = self.output.with_name(".corpus.stages") / "read"
        return any(read.glob("[!.]*/done.json")) and any(read.glob(".*"))

    def wait(self) -> int:
        return self.process.wait(600)


def test_two_nodes_make_the_same_bytes_as_one_machine(cluster, text, expected, tmp_path):
    job, seen = Job(cluster, text, tmp_path), set()

    def both() -> bool:
        seen.update(index for index in (0, 1) if tasks_of(cluster, index))
        return seen == {0, 1}

    job.wait_for(both, "tasks on both nodes")
    assert job.wait() == 0, job.log.read_text()
    assert hashes(job.output) == expected


def test_a_killed_worker_is_replaced_and_the_bytes_are_the_same(cluster, text, expected, tmp_path):
    job = Job(cluster, text, tmp_path)
    job.wait_for(job.reading, "reading")
    victim = job.wait_for(lambda: tasks_of(cluster, 1), "a task on the second node")[0]
    victim.kill()
    assert job.wait() == 0, job.log.read_text()
    assert hashes(job.output) == expected


def test_a_killed_driver_leaves_no_corpus_and_a_rerun_makes_the_same_bytes(cluster, text, expected, tmp_path):
    job = Job(cluster, text, tmp_path)
    job.wait_for(job.reading, "reading")
    (driver,) = processes(cluster, 0, lambda command: command[1:2] == ["jobs/prepare.py"])
    driver.kill()
    assert job.wait() == 128 + signal.SIGKILL, job.log.read_text()
    assert not job.output.exists()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".corpus.stages/read/[!.]*/done.json")}
    again = Job(cluster, text, tmp_path)
    assert again.wait() == 0, again.log.read_text()
    assert hashes(again.output) == expected
    assert done and all(path.stat().st_mtime_ns == changed for path, changed in done.items())


def test_a_killed_node_loses_nothing(cluster, text, expected, tmp_path):
    job = Job(cluster, text, tmp_path)
    job.wait_for(job.reading, "reading")
    job.wait_for(lambda: tasks_of(cluster, 1), "a task on the second node")
    cluster.kill_node(1)
    status = job.wait()
    assert states(cluster) == ["alive", "dead"]
    if status:  # one sentence, and the work that was done stays
        assert status == 1 and "Traceback" not in job.log.read_text(), job.log.read_text()
        assert not job.output.exists()
        job = Job(cluster, text, tmp_path)
        assert job.wait() == 0, job.log.read_text()
    assert hashes(job.output) == expected
