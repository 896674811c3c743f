"""Which language a document is in, by py3langid, whose model is part of its package."""

from __future__ import annotations

from functools import cache
from typing import Any

from codex_ray.corpus.raw import Dropped
from codex_ray.errors import ConfigError

SAMPLE = 4096  # characters; the model reads every byte in Python, and a page is enough to tell


class Language:
    """Keep documents in some languages.

    Args:
        languages: ISO 639 codes.
        confidence: the lowest probability, over all of the model's languages, that is believed.

    Raises:
        ConfigError: the model does not know a language.
    """

    name = "language"

    def __init__(self, languages: list[str], confidence: float) -> None:
        unknown = [code for code in languages if code not in known()]
        if unknown:
            raise ConfigError(
                f"clean.languages: the language model does not know {unknown[0]!r}; "
                f"it knows {', '.join(known())}"
            )
        self.languages = frozenset(languages)
        self.confidence = confidence

    def apply(self, text: str, name: str) -> str | Dropped:
        """Name the language of a sample from the document's middle."""
        start = max(0, (len(text) - SAMPLE) // 2)
        code, probability = _model().classify(text[start : start + SAMPLE])
        if code not in self.languages:
            return Dropped("language/other", f"{code} with probability {probability:.2f}")
        if probability < self.confidence:
            return Dropped(
                "language/unsure", f"{code} with probability {probability:.2f} < {self.confidence:g}"
            )
        return text


def known() -> list[str]:
    """List the codes of the languages that can be told apart."""
    return sorted(map(str, _model().labels))


@cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
