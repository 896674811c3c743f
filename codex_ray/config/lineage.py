"""Settings of `lineage`."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.fields import setting


@dataclass(frozen=True)
class Lineage:
    """Say what a model was made from."""

    path: str = setting(help="a model folder, a run folder or a corpus; or the URL of an endpoint")
    deep: bool = setting(False, help="hash weights and rows too, which reads all of them")
    model: str | None = setting(None, help="of an endpoint with several models: which; unset is the first")
    key: str | None = setting(None, secret=True, help="API key of the endpoint; unset takes OPENAI_API_KEY")
    json: bool = setting(False, help="print one JSON object in place of a tree")
