"""The chain of cleaning steps, for one document at a time.

The order is fixed. What makes text of bytes comes first: decoding, repair, normalisation. Then the cheap
limits on length, so that nothing is measured in vain; source files: generated ones, whose mark may stand
in a header, then the cutting of licence headers, then minified and data files; the rules on words and
lines, Gopher's repetition and quality, C4's, FineWeb's, as FineWeb applied them; the language; redaction;
the user's own judges, which see text without secrets; and decontamination last, on the text as it would
be trained on. A document that was changed must keep to the limits on length at the end as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.corpus import Clean
from codex_ray.corpus.cleaning import gopher, web
from codex_ray.corpus.cleaning.decode import decode
from codex_ray.corpus.cleaning.judges import Judge, JudgeFailed
from codex_ray.corpus.cleaning.steps import Length, Quality, Redaction, Step, Views
from codex_ray.corpus.raw import Dropped, Quarantined, Raw


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A document that is kept; ``changed`` names the steps that changed it, in their order."""

    name: str
    text: str
    changed: tuple[str, ...] = ()


class Chain:
    """The steps that the settings ask for. Make one per process: models and vocabularies are loaded once.

    Args:
        settings: the ``clean`` section of ``prepare``.

    Raises:
        ConfigError: a language, a judge or an evaluation file is not there.
        CodexRayError: an evaluation file cannot be read.
    """

    def __init__(self, settings: Clean) -> None:
        self._detect = settings.encoding == "detect"
        self._length = Length(settings.min_bytes, settings.max_bytes)
        self._steps = _mending(settings)
        self._steps += [self._length, *_code(settings), *_quality(settings), *_last(settings)]

    def apply(self, raw: Raw) -> Cleaned | Dropped | Quarantined:
        """Clean one document."""
        decoded = decode(raw, detect=self._detect)
        if isinstance(decoded, Quarantined):
            return decoded
        text, done = decoded
        changed = list(done)
        for step in self._steps:
            try:
                result = step.apply(text, raw.name)
            except JudgeFailed as error:
                return Quarantined(raw.name, f"judge failed: {error}")
            if isinstance(result, Dropped):
                return result
            if result is not text and result != text:
                text = result
                changed.append(step.name)
        if changed and isinstance(last := self._length.apply(text, raw.name), Dropped):
            return last
        return Cleaned(raw.name, text, tuple(changed))


def _mending(settings: Clean) -> list[Step]:
    steps: list[Step] = []
    if settings.repair:
        from codex_ray.corpus.cleaning.mend import Repair

        steps.append(Repair())
    if settings.normalise != "none":
        from codex_ray.corpus.cleaning.mend import Normalise

        steps.append(Normalise(settings.normalise))
    return steps


def _code(settings: Clean) -> list[Step]:
    from codex_ray.corpus.cleaning.code import DataFiles, Generated, Minified
    from codex_ray.corpus.cleaning.licence import LicenceHeaders

    steps: list[Step] = []
    if settings.generated_code:  # before headers are cut: the mark may stand in one
        steps.append(Generated())
    if settings.licence_headers:
        steps.append(LicenceHeaders())
    if settings.minified_code:
        steps.append(Minified())
    if settings.data_files:
        steps.append(DataFiles())
    return steps


def _quality(settings: Clean) -> list[Step]:
    views = Views()
    families = (
        (settings.gopher_repetition, "gopher_repetition", gopher.repetition),
        (settings.gopher_quality, "gopher_quality", gopher.quality),
        (settings.c4, "c4 lines", web.c4),
        (settings.fineweb, "fineweb", web.fineweb),
    )
    return [Quality(name, rules, views) for wanted, name, rules in families if wanted]


def _last(settings: Clean) -> list[Step]:
    steps: list[Step] = []
    if settings.languages:
        from codex_ray.corpus.cleaning.language import Language

        steps.append(Language(settings.languages, settings.language_confidence))
    if settings.redact.secrets != "keep" or settings.redact.personal != "keep":
        steps.append(Redaction(settings.redact))
    steps += [Judge(path) for path in settings.judges]
    if settings.decontaminate:
        from codex_ray.corpus.cleaning.decontaminate import Decontaminate

        steps.append(Decontaminate(settings.decontaminate, settings.decontaminate_words))
    return steps
