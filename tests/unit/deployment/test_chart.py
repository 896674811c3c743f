"""The Helm chart: what it renders is what the manifests say, and follows its values."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import codex_ray
from codex_ray.config.fields import build
from codex_ray.config.serve import Serve
from tests.unit.deployment.go_templates import render, texts
from tests.unit.deployment.test_manifests import CLUSTER, RAY_KINDS, SCHEMA, cluster_spec, read

CHART = CLUSTER / "helm"


def rendered(**changes: Any) -> dict[str, Any]:
    values = read(CHART / "values.yaml")
    for name, value in changes.items():
        values[name] |= value
    return render(CHART, values, "codex-ray")


@pytest.mark.parametrize("name", RAY_KINDS)
def test_by_default_it_is_what_the_manifests_say(name: str) -> None:
    document = rendered(job={"enabled": True}, service={"enabled": True})[f"{name}.yaml"]
    jsonschema.validate(document, SCHEMA)
    manifest = read(CLUSTER / "kubernetes" / f"{name}.yaml")
    assert document["kind"] == manifest["kind"]
    assert cluster_spec(document) == cluster_spec(manifest)
    if name == "rayjob":
        assert document["spec"] == manifest["spec"]
    if name == "rayservice":
        ours, theirs = (yaml.safe_load(one["spec"]["serveConfigV2"]) for one in (document, manifest))
        assert ours == theirs
        build(Serve, ours["applications"][0]["args"])


def test_what_lies_beside_is_equal_and_what_is_off_is_left_out() -> None:
    documents = rendered()
    assert documents.keys() == {"raycluster.yaml", "network-policy.yaml", "storage.yaml"}
    for name in ("network-policy", "storage"):
        assert documents[f"{name}.yaml"] == read(CLUSTER / "kubernetes" / f"{name}.yaml")
    assert rendered(cluster={"enabled": False}, storage={"create": False}).keys() == {"network-policy.yaml"}


def test_a_queue_gets_labels_and_one_size() -> None:
    document = rendered(queue={"name": "people", "priority": "high"})["raycluster.yaml"]
    jsonschema.validate(document, SCHEMA)
    assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "people"
    assert document["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    assert document["spec"]["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in document["spec"]


def test_pools_images_and_storage_follow_the_values() -> None:
    group = {"pool": "l4", "replicas": 2, "min": 0, "max": 3, "tainted": True, "resources": {"cpu": "4"}}
    document = rendered(workers={"cards": group}, storage={"claim": "mine", "class": "nfs"})
    spec = document["raycluster.yaml"]["spec"]
    names = [one["groupName"] for one in spec["workerGroupSpecs"]]
    assert names == ["cards", "on-demand", "spot"]
    cards = spec["workerGroupSpecs"][0]
    assert cards["template"]["spec"]["tolerations"][0]["value"] == "l4"
    assert cards["template"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "4"}
    assert document["storage.yaml"]["spec"]["storageClassName"] == "nfs"
    volumes = json.dumps(spec["headGroupSpec"]["template"]["spec"]["volumes"])
    assert '"claimName": "mine"' in volumes
    chart, values = read(CHART / "Chart.yaml"), read(CHART / "values.yaml")
    assert chart["version"] == chart["appVersion"] == codex_ray.__version__
    assert values["image"].endswith(f":{codex_ray.__version__}-cuda")


def test_what_the_chart_does_not_use_is_refused_by_the_renderer() -> None:
    values = copy.deepcopy(read(CHART / "values.yaml"))
    for text in ("{{ .Values.imagee }}", "{{ upper .Values.image }}", '{{ include "none" . }}'):
        with pytest.raises((KeyError, AssertionError)):
            texts({"a.yaml": text}, values, "x")
    assert texts({"a.yaml": "a  {{- if .Values.image }} b {{- else }} c {{- end }}\n"}, values, "x") == {
        "a.yaml": "a b\n"
    }
    assert Path(CHART / "templates" / "_cluster.tpl").is_file()
