"""``lineage``: a model's tree back to text, by the records in its folder, checked against what is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codex_ray.config.lineage import Lineage
from codex_ray.corpus.manifest import NAME, Manifest
from codex_ray.errors import CodexRayError, nearest
from codex_ray.files import read_json
from codex_ray.model.lineage import record_of, weights_of

ANSWER_SECONDS = 30.0
SOUND, UNCHECKED, GONE, CHANGED, FOREIGN = "sound", "there", "gone", "CHANGED", "not made here"


@dataclass(frozen=True)
class Ancestor:
    """One thing in the tree, and what it was made from.

    Attributes:
        kind: ``endpoint``, ``model``, ``run``, ``corpus`` or ``source``.
        path: where it is, or was.
        state: ``sound``, its hashes being those recorded; ``there``, not hashed; ``gone``; ``CHANGED``;
            ``not made here``.
        told: more of it, in words.
        made_from: what it was made from.
    """

    kind: str
    path: str
    state: str
    told: str = ""
    made_from: list[Ancestor] = field(default_factory=list)


def lineage_verb(settings: Lineage) -> Ancestor:
    """Print where a model comes from, and return it.

    Raises:
        CodexRayError: nothing was made here, or something is not what it was.
    """
    if settings.path.startswith(("http://", "https://")):
        tree = _endpoint(settings)
    else:
        tree = ancestry(settings.path, deep=settings.deep)
    print(json.dumps(asdict(tree), indent=2, ensure_ascii=False) if settings.json else "\n".join(drawn(tree)))
    changed = [one.path for one in walk(tree) if one.state == CHANGED]
    if changed:
        raise CodexRayError(
            f"{' and '.join(dict.fromkeys(changed))}: no longer what the records say; look for the copy that "
            "was used, or make again what came of it"
        )
    return tree


def ancestry(path: str, *, deep: bool = False) -> Ancestor:
    """Return the tree of a model folder, run folder or corpus.

    Raises:
        CodexRayError: there is nothing, or it was not made here.
    """
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise CodexRayError(f"{path} is no folder; give a model folder, a run folder or a corpus")
    if (folder / NAME).is_file():
        return _corpus(folder, None, deep)
    record = record_of(folder)
    if record is None:
        raise CodexRayError(
            f"{path} has no lineage.json: it was not made by codex_ray, or its run has not ended; give a run "
            "that is complete, or what was exported of it"
        )
    model = folder / "model" if (folder / "model" / "lineage.json").is_file() else folder
    return _model(str(model), record, deep)


def _endpoint(settings: Lineage) -> Ancestor:
    """Return the tree of what an endpoint serves, whose folder must be seen from here."""
    found = served(settings.path, settings.key)
    known = [str(one.get("id")) for one in found]
    card = next((one for one in found if settings.model in (None, one.get("id"))), None)
    if card is None:
        raise CodexRayError(
            f"{settings.path} serves no model {settings.model}{nearest(str(settings.model), known)}; it "
            f"serves {', '.join(known) or 'none'}"
        )
    root, name = card.get("root"), card.get("id")
    if not isinstance(root, str) or not Path(root).expanduser().is_dir():
        raise CodexRayError(
            f"{settings.path} serves {name} from {root}, which is no folder here; ask where it is one"
        )
    path = str(Path(root).expanduser().absolute())
    grown = ancestry(path, deep=settings.deep) if record_of(path) else Ancestor("model", path, FOREIGN)
    return Ancestor("endpoint", settings.path, UNCHECKED, f"model {name}", [grown])


def served(url: str, key: str | None) -> list[dict[str, Any]]:
    """Return the models that an OpenAI endpoint lists.

    Raises:
        CodexRayError: it does not answer, or refuses the key.
    """
    from openai import APIError, OpenAI

    base = url.rstrip("/") if url.rstrip("/").endswith("/v1") else f"{url.rstrip('/')}/v1"
    given = key or os.environ.get("OPENAI_API_KEY") or "none"
    try:
        client = OpenAI(base_url=base, api_key=given, timeout=ANSWER_SECONDS, max_retries=0)
        return [one.model_dump() for one in client.models.list()]
    except APIError as error:
        raise CodexRayError(
            f"{base} does not list its models ({error.message}); check the address, and key=KEY where it "
            "asks for one"
        ) from error


def _model(path: str, record: Mapping[str, Any] | None, deep: bool) -> Ancestor:
    if record is None:
        return Ancestor("model", path, FOREIGN)
    folder = Path(path)
    if (folder / "model" / "lineage.json").is_file():
        folder = folder / "model"
    state = _state_of_weights(folder, record, deep)
    parent = record.get("parent")
    grown = [_model(parent["model"], parent["lineage"], deep)] if parent else []
    if "run" in record:
        run = Path(record["run"])
        corpus = record.get("corpus")
        rows = [_corpus(Path(corpus), record["rows_fingerprint"], deep)] if corpus else []
        told = " · ".join(filter(None, [str(record.get("verb") or ""), _environment(run)]))
        there = UNCHECKED if run.is_dir() else GONE
        return Ancestor(
            "model", str(folder), state, "", [Ancestor("run", str(run), there, told, [*rows, *grown])]
        )
    return Ancestor("model", str(folder), state, str(record.get("verb") or ""), grown)


def _state_of_weights(folder: Path, record: Mapping[str, Any], deep: bool) -> str:
    """Compare a model folder with its record: the record beside it at least, its files where asked."""
    if not folder.is_dir():
        return GONE
    weights = record.get("weights") or {}
    there = record_of(folder)
    if (
        there is None
        or there.get("weights") != record.get("weights")
        or there["life_id"] != record["life_id"]
    ):
        return CHANGED
    if {path.name for path in folder.glob("*.safetensors")} != set(weights) and weights:
        return CHANGED
    if not deep or not weights:
        return UNCHECKED
    return SOUND if weights_of(folder) == weights else CHANGED


def _corpus(folder: Path, fingerprint: str | None, deep: bool) -> Ancestor:
    if not (folder / NAME).is_file():
        return Ancestor("corpus", str(folder), GONE, f"fingerprint {str(fingerprint)[:12]}")
    manifest = Manifest.read(folder)
    state = SOUND if deep else UNCHECKED
    try:
        manifest.check_fingerprint()
        manifest.check_tokenizer()
        manifest.verify(deep)
    except CodexRayError:
        state = CHANGED
    if fingerprint not in (None, manifest.fingerprint):
        state = CHANGED
    rows = sum(split.rows for split in manifest.splits.values())
    told = (
        f"{rows:,} rows of {manifest.sequence_length} tokens, fingerprint {manifest.fingerprint[:12]}, "
        f"tokenizer {manifest.tokenizer_digest[:12]}, life {manifest.life_id[:12]}"
    )
    return Ancestor("corpus", str(folder), state, told, [_source(*one) for one in manifest.sources.items()])


def _source(name: str, account: Mapping[str, Any]) -> Ancestor:
    path = str(account.get("path") or name)
    gone = Path(path).is_absolute() and not Path(path).exists()
    state = GONE if gone else UNCHECKED
    return Ancestor("source", path, state, name if name != path else "")


def _environment(run: Path) -> str:
    """Say when a run was and of which commit."""
    path = run / "environment.json"
    if not path.is_file():
        return ""
    found = read_json(path, "environment")
    commit = found.get("commit") or {}
    code = (
        f"commit {str(commit['commit'])[:12]}{' and changes' if commit.get('dirty') else ''}"
        if commit
        else ""
    )
    return " · ".join(filter(None, [str(found.get("time") or ""), code]))


def walk(tree: Ancestor) -> Iterator[Ancestor]:
    """Iterate over a tree."""
    yield tree
    for one in tree.made_from:
        yield from walk(one)


def drawn(tree: Ancestor, first: str = "", rest: str = "") -> Iterator[str]:
    """Yield a tree's lines, what it was made from below it."""
    yield f"{first}{tree.kind} {tree.path} ({tree.state})" + (f": {tree.told}" if tree.told else "")
    for number, one in enumerate(tree.made_from):
        last = number == len(tree.made_from) - 1
        yield from drawn(one, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
