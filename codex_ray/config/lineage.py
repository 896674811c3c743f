"""Settings of `lineage`."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.fields import setting


@dataclass(frozen=True)
class Lineage:
    """Say what a model was made from."""

    path: str = setting(help="a model folder, a run folder or a corpus")
    deep: bool = setting(False, help="hash weights and rows too, which reads all of them")
    json: bool = setting(False, help="print one JSON object in place of a tree")
