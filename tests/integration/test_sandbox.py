"""Sandboxes on Ray: scorer actors that own them, several at a time; and a search scored by a command."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from codex_ray.discover.grader import Grading, Start
from codex_ray.discover.run import discover
from codex_ray.rollout.episode import Episode, Outcome, Prompt, Turn
from codex_ray.rollout.scorer import ScoringActor
from tests.integration.test_discover import wanted
from tests.integration.test_finetune import ours, tokenizer

__all__ = ["ours", "tokenizer"]
pytestmark = pytest.mark.integration
SEED = {"made": [0.5, 0.5, 0.5, 0.5], "program": ""}


def episode(sample: int, program: str) -> Episode:
    text = f"```python\n{program}\n```"
    turn = Turn(None, [], [1], text, text, [0.0], [0.0], "stop")
    return Episode(0, 0, sample, 0, Prompt([1], Start(0, SEED)), (turn,))


def test_scorers_own_sandboxes(ray_session: None) -> None:
    options = {"steps": 4, "sandbox": {"wall_seconds": 3.0}}
    build = Grading("erdos_min_overlap", "python", options)
    actor = ray.remote(ScoringActor)
    scorers = [actor.remote(build) for _ in range(2)]
    programs = {
        "def propose(parent, seconds): return [0, 1, 1, 0]": 0.5,
        "def propose(parent, seconds): return [1, 1, 0, 0]": 1.0,
        "import socket\nsocket.create_connection(('127.0.0.1', 6379))": "PermissionError",
        "import os\ndef propose(parent, seconds): return os.listdir('/proc')": "FileNotFoundError",
        "def propose(parent, seconds):\n    while True: pass": "longer than 3 s",
        "import os\nos.kill(os.getppid(), 9)\ndef propose(*_): os.listdir('/tmp/ray')": "FileNotFoundError",
    }
    under_way = [
        scorers[place % 2].judge.remote(episode(place, program), False)
        for place, program in enumerate(programs)
    ]
    for found, wanted_ in zip(ray.get(under_way, timeout=200), programs.values(), strict=True):
        assert isinstance(found, Outcome), found
        if isinstance(wanted_, float):
            assert found.detail["figure"] == wanted_ and found.reward == 1 / wanted_
        else:
            assert found.reward == 0.0 and wanted_ in found.detail["reason"]
    processes = [psutil.Process(ray.get(one.process.remote())) for one in scorers]
    children = [child for process in processes for child in process.children()]
    servers = [child for child in children if "server.py" in " ".join(child.cmdline())]
    assert len(servers) == 2
    for one in scorers:
        ray.kill(one)
    _, alive = psutil.wait_procs(servers, timeout=30)
    assert not alive  # a server ends with its scorer


@pytest.mark.verify
def test_a_search_scored_by_a_command(ours: Path, tmp_path: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text("import sys\ntext = open(sys.argv[1]).read()\nprint(text.count('a') - len(text))\n")
    options: dict[str, Any] = {
        "score": f"{sys.executable} {script} {{solution}}", "seeds": ["seeds"], "block": False, "task": "a",
    }  # fmt: skip
    settings = replace(wanted(ours, tmp_path, "command"), problem="command", options=options)
    found = discover(settings)
    held = json.loads(found.solution.read_text())
    assert held["problem"] == "command" and held["figure"] == found.figure
    assert held["figure"] == held["solution"].count("a") - len(held["solution"])
