"""The tree itself: its shape, its lock, its make targets, and that it names no machine."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks.report import rendered
from benchmarks.results import read_results
from codex_ray.config.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE = 600
LONGEST_JOB = 100

# A folder of this user's or of one machine. URLs, and system paths that every Linux has, are no such thing.
MACHINE_PATH = re.compile(r"(?<![\w/.:}])/(?:home|root|work|Users|mnt|data|opt|scratch)/[\w.-]")


def tracked(*patterns: str) -> list[Path]:
    """Return the files of the project that match, whether committed yet or not."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        names = done.stdout.splitlines()
    else:  # an unpacked source distribution
        names = [str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.rglob(pattern)]
    return [ROOT / name for name in sorted(names) if (ROOT / name).is_file()]


def make(*words: str) -> str:
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout


def targets() -> list[str]:
    """Return the targets that the Makefile declares phony, which are all it has."""
    declared = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared
    return declared[1].split()


def locked() -> dict[str, Version]:
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def test_no_file_names_a_machine() -> None:
    named = []
    for path in tracked("*"):
        if path.suffix in (".png", ".parquet", ".model", ".safetensors") or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE_PATH.search(line):
                named.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert named == []


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("cache = '/home/somebody/cache'", True),
        ("pip install -f /opt/packages", True),
        ("https://example.org/data/file", False),
        ("runs/data/x and {folder}/data/x", False),
        ("/sys/fs/cgroup/cpu.max", False),
    ],
)
def test_a_machine_path_is_told_from_other_paths(line: str, named: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) is named


def test_no_python_file_is_long() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in tracked("*.py")}
    assert len(lengths) > 50
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_jobs_are_short_and_there_is_one_per_verb_that_runs_a_stage() -> None:
    jobs = {path.stem: len(path.read_text().splitlines()) for path in tracked("jobs/*.py")}
    assert set(jobs) == {verb.split()[0] for verb in VERBS}
    assert {name: length for name, length in jobs.items() if length >= LONGEST_JOB} == {}


def test_the_lock_pins_every_dependency_to_a_version_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
    ]
    pins = locked()
    for requirement in map(Requirement, texts):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in the lock"
        assert requirement.specifier.contains(version), f"the lock pins {requirement.name} {version}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "requirements").glob("hashes.*.txt")), ids=lambda path: path.name
)
def test_hashes_are_of_the_locked_versions_all_but_torch(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    found = {canonicalize_name(line.partition("==")[0]): line.split()[0].partition("==")[2] for line in lines}
    pins = {name: str(version) for name, version in locked().items()}
    assert found == {name: pins[name] for name in found}
    assert all(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}  # \S+", line) for line in lines)
    if ".dev." in path.name:
        assert pins.keys() - found.keys() == {"torch"}


def test_the_lock_leaves_the_build_of_torch_open() -> None:
    assert locked()["torch"].local is None


def test_make_help_lists_every_target_in_a_line() -> None:
    listed = {line.split()[1]: line for line in make("help").splitlines()}
    assert sorted(listed) == sorted(targets())
    assert all(len(line.split()) > 4 and len(line) <= 100 for line in listed.values())
    assert make() == make("help")


@pytest.mark.parametrize("target", targets())
def test_every_target_says_what_it_would_run(target: str) -> None:
    assert make("-n", target)


def test_quickstart_hands_a_folder_with_spaces_over_in_one_word() -> None:
    assert make("-n", "quickstart", "text=my texts").splitlines()[-1].endswith('quickstart "text=$text"')
    assert make("-n", "quickstart").splitlines()[-1].split()[-1] == "quickstart"


def test_generated_tables_are_those_of_the_result_files() -> None:
    for path, text in rendered(read_results()).items():
        assert path.read_text(encoding="utf-8") == text, (
            f"run python -m benchmarks.report, {path} is out of date"
        )


def test_the_readme_names_every_verb_and_every_part() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f"`{verb}`" in readme, verb
    for folder in sorted(
        path.name for path in (ROOT / "codex_ray").iterdir() if (path / "__init__.py").exists()
    ):
        assert f"{folder}/" in readme, folder


def test_evaluation_stands_below_training() -> None:
    above = {"train", "discover", "tune", "plan", "runs", "serve", "quickstart"}
    for package in ("rollout", "evaluate"):  # a run measures itself with them
        for path in (ROOT / "codex_ray" / package).glob("*.py"):
            known = set(re.findall(r"codex_ray\.(\w+)[\w.]* import", path.read_text()))
            assert not known & above, path.name
