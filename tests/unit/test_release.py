"""A release: what stops it, what it builds, and a workflow that publishes nothing but by a tag."""

from __future__ import annotations

import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import release

    yield release
    sys.modules.pop("release", None)


def test_a_dry_run_builds_what_a_release_is(release, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(release, "DIST", tmp_path)
    monkeypatch.setattr(sys, "argv", ["release.py", "--dry-run"])
    assert release.main() == 0, capsys.readouterr().err
    version = release.project_version()
    names = [f"codex_ray-{version}{end}" for end in ("-py3-none-any.whl", ".cdx.json", ".tar.gz")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["SHA256SUMS", *names])
    sums = dict(line.split()[::-1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: release.sha256(tmp_path / name) for name in names}
    bill = json.loads((tmp_path / names[1]).read_text())
    assert bill["bomFormat"] == "CycloneDX"
    found = {one["name"]: one for one in bill["components"]}
    assert found["torch"]["purl"].startswith("pkg:pypi/torch@")
    assert found["safetensors"]["licenses"][0]["license"]["name"] == "Apache Software License"
    with zipfile.ZipFile(tmp_path / names[0]) as wheel:
        assert "codex_ray/configs/pretrain.yaml" in wheel.namelist()
        assert not any("secrets" in name and name.endswith("token") for name in wheel.namelist())
    with tarfile.open(tmp_path / names[2]) as sdist:
        members = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"cluster/docker/Dockerfile", "CHANGELOG.md", "tools/release.py", "jobs/doctor.py"} <= members
    assert f"-t ghcr.io/codex-ray/codex-ray:{version}-cuda" in capsys.readouterr().out


def test_what_is_not_ready_is_refused(release, monkeypatch) -> None:
    monkeypatch.setattr(release, "_git", lambda *words: "")
    release.check(release.project_version(), dry=False)
    with pytest.raises(release.ReleaseError, match=r"has no entry `## 9\.9\.9"):
        release.check("9.9.9", dry=True)
    monkeypatch.setattr(release, "_git", lambda *words: " M README.md" if words[0] == "status" else "")
    with pytest.raises(release.ReleaseError, match="files differ from the commit"):
        release.check(release.project_version(), dry=False)
    monkeypatch.setattr(release, "_git", lambda *words: "v0.1.0" if words[0] == "tag" else "")
    with pytest.raises(release.ReleaseError, match="is released"):
        release.check(release.project_version(), dry=False)


def test_the_workflow_publishes_by_a_tag_alone() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    workflow = yaml.safe_load(text)
    jobs = workflow["jobs"]
    assert jobs["publish"]["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert jobs["publish"]["needs"] == ["build", "images"]
    (push,) = [step for step in jobs["images"]["steps"] if "build-push" in step.get("uses", "")]
    assert push["with"]["push"] == "${{ startsWith(github.ref, 'refs/tags/v') }}"
    commands = [step["run"] for step in jobs["build"]["steps"] if "run" in step]
    assert "make release dry=1" in commands and ".ci/run" in commands
    assert workflow["permissions"] == {"contents": "read"}
    for row in jobs["images"]["strategy"]["matrix"]["include"]:
        assert (ROOT / "cluster" / "docker" / row["file"]).is_file()
