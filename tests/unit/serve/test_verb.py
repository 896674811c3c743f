"""What ``codex-ray serve`` refuses before anything starts, and the YAML that it writes for Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from codex_ray.config.fields import build
from codex_ray.config.serve import Access, Replicas, Serve, Tls
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.serve.app import name_of
from codex_ray.serve.keys import KeyFile
from codex_ray.serve.verb import serve_verb


def test_what_cannot_serve_is_refused(model_folder: Path, tmp_path: Path) -> None:
    keys = str(tmp_path / "keys.json")
    open_to_all = Serve(str(model_folder), host="0.0.0.0", access=Access(keys))
    with pytest.raises(ConfigError, match="names no API key; make one with"):
        serve_verb(open_to_all)
    KeyFile(keys).add("alice")
    with pytest.raises(ConfigError, match="would let anybody in"):
        serve_verb(replace(open_to_all, access=Access(keys, "never")))
    with pytest.raises(ConfigError, match=r"replicas\.min=3 is above"):
        serve_verb(Serve(str(model_folder), replicas=Replicas(min=3)))
    with pytest.raises(ConfigError, match="must both name files"):
        serve_verb(Serve(str(model_folder), tls=Tls(certificate=str(tmp_path / "none.pem"))))
    with pytest.raises(ConfigError, match="is no folder"):
        serve_verb(Serve(str(model_folder), adapters=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match="which is the first model's name"):
        serve_verb(Serve(str(model_folder), models={"tiny": str(model_folder)}))
    with pytest.raises(CodexRayError, match="holds no model"):
        serve_verb(Serve(str(tmp_path)))


def test_the_yaml_is_rays_and_holds_every_setting(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_folder.parent)
    file = tmp_path / "app.yaml"
    settings = Serve("tiny", port=8123, replicas=Replicas(max=3), write_config=str(file))
    serve_verb(settings)
    config = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    assert config.http_options.host == "127.0.0.1" and config.http_options.port == 8123
    (application,) = config.applications
    assert application.import_path == "codex_ray.serve.app:build_app"
    read = build(Serve, application.args)
    assert read == replace(settings, model=str(model_folder), write_config=None)


def test_a_model_is_called_as_its_folder(tmp_path: Path) -> None:
    (tmp_path / "first" / "model").mkdir(parents=True)
    assert name_of(Serve(str(tmp_path / "first"))) == "first"
    assert name_of(Serve(str(tmp_path / "first" / "model"))) == "first"
    assert name_of(Serve("org/model")) == "org/model"
    assert name_of(Serve("models:/chat/champion")) == "chat"
    assert name_of(Serve("org/model", name="mine")) == "mine"
