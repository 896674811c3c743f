"""What a corpus report says of the items: dropped, repeated, changed and quarantined, with samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from codex_ray.corpus.account import DUPLICATE, NEAR_DUPLICATE, SAMPLE_CHARACTERS, SAMPLES, Account
from codex_ray.corpus.manifest import Manifest
from codex_ray.track.page import columns_table, escape, section

REASONS_SHOWN = 100  # the commonest, of each section
NAME_CHARACTERS = 300
DUPLICATES_SHOWN = 10  # pairs of each kind


@dataclass(frozen=True)
class Sample:
    """An item that a reason met: its source where there are several, name, what was seen, how it begins."""

    source: str
    name: str
    detail: str
    begins: str


def items_sections(manifest: Manifest, account: Account) -> Iterator[str]:
    """Yield the sections: dropped, duplicates, changed, quarantined; those with nothing to say are empty."""
    samples = _samples(manifest)
    dropped = Counter(account.dropped)
    exact, near = dropped.pop(DUPLICATE, 0), dropped.pop(NEAR_DUPLICATE, 0)
    yield section(
        "Dropped",
        _reasons(dropped, samples, account.read),
        "Documents that a cleaning step rejected, by its rules, with what the rule saw in a few of them.",
    )
    yield section("Duplicates", _duplicates(manifest, exact, near, samples, account.read))
    changed = account.changed.most_common(REASONS_SHOWN)
    lines = [[_words(step), f"{count:,}", _share(count, account.kept)] for step, count in changed]
    body = columns_table(("step", "documents", "of those kept"), lines)
    body += _more(len(account.changed) - len(changed), "steps")
    yield section("Changed", body if changed else "", "Documents that a step mended and kept.")
    yield section(
        "Quarantined",
        _reasons(account.quarantined, samples, account.read),
        "Items that could not be read as text; quarantine.jsonl lists every one with its reason.",
    )


def _samples(manifest: Manifest) -> dict[str, list[Sample]]:
    """Return a few samples of each reason, from as many sources as there are."""
    found: dict[str, list[tuple[int, Sample]]] = {}
    several = len(manifest.sources) > 1
    hidden = _hiding(manifest)
    for source, data in manifest.sources.items():
        for reason, items in data["samples"].items():
            limit = DUPLICATES_SHOWN if reason in (DUPLICATE, NEAR_DUPLICATE) else SAMPLES
            known = found.setdefault(reason, [])
            if len(known) == limit and known[-1][0] == 0:
                continue  # one of each of so many sources is the best there can be
            for place, item in enumerate(items):
                name, detail = hidden(item["name"]), hidden(item["detail"])
                text = hidden(item["begins"])[:SAMPLE_CHARACTERS]
                known.append((place, Sample(source if several else "", name, detail, text)))
            known.sort(key=lambda one: one[0])
            del known[limit:]
    return {reason: [sample for _, sample in items] for reason, items in found.items()}


def _hiding(manifest: Manifest) -> Callable[[str], str]:
    """Return what masks in samples the secrets and personal data that the settings keep out of the corpus."""
    redacts = [manifest.settings_of(name).get("clean", {}).get("redact", {}) for name in manifest.sources]
    secrets, personal = (
        any(redact.get(kind, "keep") != "keep" for redact in redacts) for kind in ("secrets", "personal")
    )
    if not secrets and not personal:
        return lambda text: text

    def hide(text: str) -> str:
        from codex_ray.safety import find, mask

        return mask(text, find(text, secrets=secrets, personal=personal))

    return hide


def _reasons(counts: Counter[str], samples: dict[str, list[Sample]], read: int) -> str:
    """Return the commonest reasons, those of no step first, then step by step; the commonest is unfolded."""
    shown = counts.most_common(REASONS_SHOWN)
    totals = Counter[str]()
    for reason, count in counts.items():
        totals[_step(reason)] += count
    parts = []
    opened = shown[0][0] if shown else ""
    for step in sorted(
        {_step(reason) for reason, _ in shown}, key=lambda step: (step != "", -totals[step], step)
    ):
        if step:
            parts.append(f'<h3 class="step">{escape(_cut(_words(step)))} <b>{totals[step]:,}</b></h3>')
        for reason, count in shown:
            if _step(reason) == step:
                found = samples.get(reason, [])
                parts.append(_reason(reason, count, read, found, reason == opened))
    return "".join(parts) + _more(
        len(counts) - len(shown), "reasons", counts.total() - sum(dict(shown).values())
    )


def _step(reason: str) -> str:
    step, slash, _ = reason.partition("/")
    return step if slash else ""


def _reason(reason: str, count: int, read: int, samples: list[Sample], opened: bool) -> str:
    title = _cut(_words(reason.partition("/")[2] or reason))
    return (
        f'<details class="reason"{" open" if opened else ""}><summary>{escape(title)} '
        f"<b>{count:,}</b> <span>{_share(count, read)} of all read</span></summary>"
        f"{''.join(map(_sample, samples)) or '<p>There are no samples.</p>'}</details>"
    )


def _sample(sample: Sample) -> str:
    source = f"{sample.source}: " if sample.source else ""
    text = f"<pre>{escape(sample.begins)}</pre>" if sample.begins else ""
    detail = f" <span>{escape(_cut(sample.detail))}</span>" if sample.detail else ""
    return f"<p><b>{escape(source + _cut(sample.name))}</b>{detail}</p>{text}"


def _duplicates(
    manifest: Manifest, exact: int, near: int, samples: dict[str, list[Sample]], read: int
) -> str:
    wanted = [manifest.settings_of(name).get("duplicates", {}) for name in manifest.sources]
    parts = []
    for reason, title, key, count in (
        (DUPLICATE, "Equal to an earlier document", "exact", exact),
        (NEAR_DUPLICATE, "Nearly equal to an earlier document", "near", near),
    ):
        if count:
            found = samples.get(reason, [])
            parts.append(_reason(title, count, read, found, opened=True))
        elif wanted and all(settings.get(key) is False for settings in wanted):
            parts.append(f"<p>{title}: not looked for (duplicates.{key}=false).</p>")
        else:
            parts.append(f"<p>{title}: none.</p>")
    return "".join(parts)


def _share(count: int, whole: int) -> str:
    return f"{count / whole:.2%}" if whole else "-"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cut(text: str) -> str:
    return text if len(text) <= NAME_CHARACTERS else f"{text[:NAME_CHARACTERS]}…"


def _more(count: int, what: str, items: int = 0) -> str:
    of_them = f", {items:,} items" if items else ""
    return f"<p>and {count:,} more {what}{of_them}</p>" if count > 0 else ""
