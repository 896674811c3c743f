"""``prepare``: sources of any kind become a corpus folder, stage by stage, each a set of Ray Data tasks.

Results of stages lie beside the output under the digest of what decides them, so an interrupted prepare
goes on where it stood, and a changed setting redoes what depends on it. The corpus takes the output's
name when it is complete, so the output is always a whole corpus, the old or the new one. The same
sources and settings give byte-identical shards, whatever the number of workers.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codex_ray.config.common import DEFAULT_SEED
from codex_ray.config.corpus import Prepare, Source
from codex_ray.config.fields import differences, to_dict
from codex_ray.corpus import manifest as manifests
from codex_ray.corpus.build import Builder
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.report import write_corpus_report
from codex_ray.corpus.shards import WRITTEN
from codex_ray.corpus.sources.units import Unit, find_units
from codex_ray.corpus.stages import Stages, digest
from codex_ray.corpus.workspace import Workspace, check_output
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import sha256_of
from codex_ray.track.progress import Progress, open_progress

UNIT_BYTES = 64 * 2**20  # slice of a large file that is read by itself


@dataclass(frozen=True)
class Prepared:
    """A finished corpus.

    Attributes:
        reused: whether it was there already, made of the same.
        message: this, said in a sentence.
        seconds: how long each stage took, in their order.
    """

    folder: Path
    manifest: Manifest
    reused: bool
    message: str
    seconds: dict[str, float] = field(default_factory=dict)


def prepare(settings: Prepare, progress: Progress | None = None) -> Prepared:
    """Make a corpus folder of one or several sources.

    A corpus that is there already, made of the same text with the same settings, is left as it is; one
    made otherwise is replaced when the new one is complete, after saying what changed.

    Args:
        settings: the settings of ``prepare``.
        progress: the caller's display; unset makes one.

    Raises:
        CodexRayError: no usable text, too little for a row, a full disk, an unreadable item with
            on_error=fail, another prepare in the same folder, or Ray's failure.
        ConfigError: the output cannot be a corpus folder, or the sources' weights contradict each other.
    """
    from codex_ray.cluster.session import refuse_relative_in_job

    refuse_relative_in_job(settings.output, "output")
    output = Path(settings.output).expanduser().absolute()
    sources = named_sources(settings)
    check_output(
        output, [Path(s.path).expanduser().absolute() for s in sources.values() if "://" not in s.path]
    )
    workspace = Workspace(output)
    with open_progress(progress, settings.track.progress) as shown, workspace.hold():
        prepared = _prepare(settings, sources, workspace, shown)
        if progress is None:
            shown.table(prepared.message, summary_rows(prepared))
        else:
            shown.note(prepared.message)
    return prepared


def named_sources(settings: Prepare) -> dict[str, Source]:
    """Return the sources by name: those of ``sources``, or ``text`` alone under that name.

    Raises:
        ConfigError: a name that cannot be part of a file's, or weights for some of the sources only.
    """
    sources = dict(settings.sources) or {"text": Source(path=settings.text)}
    for name in sources:
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ConfigError(f"source {name!r} cannot be a file's name; use letters, digits, - and _")
    unset = [name for name, source in sources.items() if source.weight is None]
    if unset and len(unset) < len(sources):
        raise ConfigError(
            f"sources.{unset[0]}.weight is not set and others are; give every source a weight, or none"
        )
    if not unset and not any(source.weight for source in sources.values()):
        raise ConfigError("every source has the weight 0; give one of them more")
    return sources


def summary_rows(prepared: Prepared) -> list[tuple[str, str]]:
    """Return what a person wants to know of a corpus, and the command that goes on from it."""
    manifest, rows = prepared.manifest, []
    for name, split in manifest.splits.items():
        counts = ("documents", "bytes", "tokens", "rows")
        rows.append((name, ", ".join(f"{getattr(split, count):,} {count}" for count in counts)))
    if len(manifest.sources) > 1:
        for source in manifest.splits["train"].sources:
            rows.append((source.source, f"{source.weight:.1%} of training, {source.rows:,} rows"))
    size = sum(split.bytes for split in manifest.splits.values())
    rows.append(("bytes per token", f"{size / sum(split.tokens for split in manifest.splits.values()):.2f}"))
    total = manifest.account()
    for title, counted in (
        ("dropped", total.dropped),
        ("quarantined", total.quarantined),
        ("changed", total.changed),
    ):
        kinds = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in sorted(counted.items())]
        if kinds or title != "changed":
            rows.append((title, ", ".join(kinds) or "none"))
    if (prepared.folder / "report.html").exists():
        rows.append(("report", str(prepared.folder / "report.html")))
    rows.append(("next", f"codex-ray pretrain corpus={shlex.quote(str(prepared.folder))}"))
    return rows


def _prepare(
    settings: Prepare, sources: Mapping[str, Source], workspace: Workspace, progress: Progress
) -> Prepared:
    output = workspace.output
    units = _list(settings, sources, [output, workspace.folder], progress)
    decides, files = deciding(settings, sources), _further_files(settings, sources)
    request = digest(
        [decides, files, {name: [vars(unit) for unit in found] for name, found in units.items()}]
    )
    found = _existing(output, progress)
    if found and found.request == request:
        return _same(output, found)
    if found:
        changed = differences(found.settings, decides) or ["the text changed"]
        progress.note(f"corpus {output} is prepared again: {'; '.join(changed)}")
    stages = Stages(workspace.folder)
    stages.clear()
    with ExitStack() as session:
        _open_ray(settings, session, progress)
        builder = Builder(settings, sources, stages, progress, settings.seed or DEFAULT_SEED)
        made = builder.build(units, decides, files, request, found)
    if made.folder == output:
        made.save()
        _leave_stages(settings, stages, workspace)
        return _same(output, made)
    shutil.rmtree(made.folder / WRITTEN, ignore_errors=True)
    made.save()
    if settings.track.report:
        with progress.stage("report"):
            write_corpus_report(made, made.folder, builder.seconds, output.name)
    workspace.finish(made.folder)
    _leave_stages(settings, stages, workspace)
    rows = made.splits["train"].rows
    message = f"corpus {output} is made: {rows:,} training rows of {made.sequence_length} tokens"
    if quarantined := made.account().quarantined.total():
        message += f"; {quarantined:,} items were not text (quarantine.jsonl says why)"
    return Prepared(output, replace(made, folder=output), False, message, builder.seconds)


def _leave_stages(settings: Prepare, stages: Stages, workspace: Workspace) -> None:
    if settings.keep_stages:
        stages.sweep()
    else:
        workspace.forget()


def _same(output: Path, found: Manifest) -> Prepared:
    message = f"corpus {output} is already made of the same text with the same settings"
    return Prepared(output, found, True, message)


def _list(
    settings: Prepare, sources: Mapping[str, Source], own: list[Path], progress: Progress
) -> dict[str, list[Unit]]:
    with progress.stage("list", len(sources), "sources"):
        found = {}
        for name, source in sources.items():
            found[name] = find_units(name, source, settings.suffixes, unit_bytes=UNIT_BYTES, skip_folders=own)
            progress.advance(1)
    return found


def deciding(settings: Prepare, sources: Mapping[str, Source]) -> dict[str, Any]:
    """Return the settings that decide what a corpus holds."""
    names = ("suffixes", "on_error", "tokenizer", "limits", "clean", "duplicates", "split", "pack")
    values = to_dict(settings)
    given = {name: to_dict(source) for name, source in sources.items()}
    digests = {}
    if settings.tokenizer.path is not None:
        from codex_ray.tokenizer import Tokenizer

        digests["tokenizer"] = Tokenizer.load(settings.tokenizer.path).digest
    seed = settings.seed or DEFAULT_SEED
    planted = {"canaries": values["canaries"]} if settings.canaries.count else {}
    decides = {name: values[name] for name in names} | planted
    return {"seed": seed, "sources": given, "digests": digests, **decides}


def _further_files(settings: Prepare, sources: Mapping[str, Source]) -> dict[str, str]:
    """Return the digest of every file that reading and cleaning use besides the sources."""
    templates = [source.chat_template for source in sources.values() if source.chat_template]
    found = {}
    for name in [*templates, *settings.clean.decontaminate]:
        path = Path(name).expanduser()
        if not path.exists():
            raise CodexRayError(f"{path} does not exist; check clean.decontaminate and chat_template")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        found.update({str(file): sha256_of(file) for file in files})
    return found


def _existing(output: Path, progress: Progress) -> Manifest | None:
    """Return the corpus that is there, if it can be read; a damaged one is made again."""
    if not (output / manifests.NAME).exists():
        return None
    try:
        found = Manifest.load(output)
        found.verify(deep=False)
    except CodexRayError as error:
        progress.note(f"the corpus there is made again: {error}")
        return None
    return found


def _open_ray(settings: Prepare, session: ExitStack, progress: Progress) -> None:
    """Start or join Ray until this prepare ends, unless a session is open already."""
    import ray

    from codex_ray.cluster.session import open_session

    if not ray.is_initialized():
        with progress.stage("start Ray"):
            session.enter_context(open_session(settings.cluster))
