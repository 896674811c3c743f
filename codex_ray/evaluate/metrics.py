"""What an answer is measured by.

A metric turns every example's answers into a few numbers whose sums over examples make its value: a score and
a count for a mean, n-grams matched and written for BLEU. So a resample of examples is a sum of rows, and
every metric gets its interval the same way.
"""

from __future__ import annotations

import keyword
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.errors import ConfigError
from codex_ray.plugins import find

Array = NDArray[np.float64]
Combine = Callable[[Array], Array]
"""From sums ``[R, D]`` of an example's numbers to values ``[R]``."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_PASS_AT = re.compile(r"pass@([1-9]\d{0,3})")


@dataclass(frozen=True)
class Example:
    """A prompt to be answered.

    Attributes:
        id: its name, of its own within a task.
        prompt: a text to be continued, or chat messages that end with a user's.
        references: answers that are right; there may be none.
        row: the record that it came from, which verifiers read.
    """

    id: str
    prompt: str | tuple[Mapping[str, Any], ...]
    references: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """An example with its answers, and what a verifier gave each of them."""

    example: Example
    texts: tuple[str, ...]
    verdicts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: in tables and files.
        statistics: from answers to numbers ``[examples, D]``.
        combine: from their sums to values; a row by itself gives the value of one example.
        references: whether examples need references; ``verified``: whether they need a verifier.
        samples: answers to each prompt that it needs.
        share: whether every example's value lies between 0 and 1.
    """

    name: str
    statistics: Callable[[Sequence[Answered]], Array]
    combine: Combine
    references: bool = True
    verified: bool = False
    samples: int = 1
    share: bool = True


def mean(sums: Array) -> Array:
    """Return the mean of scores from rows of their sum and their number."""
    return sums[:, 0] / sums[:, 1]


def _mean_of(score: Callable[[Answered], float]) -> Callable[[Sequence[Answered]], Array]:
    return lambda answers: np.array([[score(one), 1.0] for one in answers]).reshape(-1, 2)


def _each(score: Callable[[str, str], float]) -> Callable[[Sequence[Answered]], Array]:
    """Average over an example's answers the best that each has with any reference."""
    return _mean_of(
        lambda one: (
            math.fsum(
                max(score(text, reference) for reference in one.example.references) for text in one.texts
            )
            / len(one.texts)
        )
    )


def exact_match(text: str, reference: str) -> float:
    """Return 1 where the texts are equal, blanks around them aside."""
    return float(text.strip() == reference.strip())


def normalized(text: str) -> str:
    """Return a text in lower case without punctuation, articles and repeated blanks, as in SQuAD.

    Where that leaves nothing they stay: the choice "A" is an answer, and no answer is none.
    """
    lower = text.lower()
    plain = lower.translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split() or plain.split() or lower.split())


def quasi_exact_match(text: str, reference: str) -> float:
    """Return 1 where the texts are equal once normalised."""
    return float(normalized(text) == normalized(reference))


def token_f1(text: str, reference: str) -> float:
    """Return the F1 of the words of normalised texts (arXiv 1606.05250); of two empty ones it is 1."""
    return _f1(normalized(text).split(), normalized(reference).split())


def identifier_f1(text: str, reference: str) -> float:
    """Return the F1 of the names in two pieces of Python, keywords aside (arXiv 2310.11248, section 4.2).

    Where neither has a name it is 1, but for an empty text beside one that is not.
    """
    if not text.strip() and reference.strip():
        return 0.0
    return _f1(_identifiers(text), _identifiers(reference))


def edit_similarity(text: str, reference: str) -> float:
    """Return 1 less the Levenshtein distance as a share of the longer text, blanks around them aside."""
    one, other = text.strip(), reference.strip()
    longest = max(len(one), len(other))
    return 1.0 - levenshtein(one, other) / longest if longest else 1.0


def levenshtein(one: str, other: str) -> int:
    """Return how many characters must be put in, taken out or replaced (Hyyrö 2003, bit vectors)."""
    if not one:
        return len(other)
    places: dict[str, int] = {}
    for place, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << place
    every, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    up, down, distance = every, 0, len(one)
    for character in other:
        equal = places.get(character, 0)
        vertical = equal | down
        horizontal = (((equal & up) + up) ^ up) | equal
        rise, fall = down | (~(horizontal | up) & every), up & horizontal
        distance += bool(rise & last) - bool(fall & last)
        rise, fall = rise << 1 | 1, fall << 1
        up, down = (fall | ~(vertical | rise)) & every, rise & vertical & every
    return distance


def distinct(text: str, order: int) -> float:
    """Return how many of a text's word n-grams differ, as a share; 0 where it has none."""
    words = text.split()
    grams = [tuple(words[place : place + order]) for place in range(len(words) - order + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def pass_at(k: int, samples: int, passed: int) -> float:
    """Return the probability that of ``k`` of the samples, drawn without return, one or more pass.

    It is without bias for the probability that one of ``k`` fresh answers passes (arXiv 2107.03374, eq. 1).

    Raises:
        ConfigError: there are fewer samples than ``k``.
    """
    if samples < k:
        raise ConfigError(f"pass@{k} needs {k} answers to each prompt and there are {samples}; sample more")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def _f1(one: Sequence[str], other: Sequence[str]) -> float:
    if not one and not other:
        return 1.0
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def _identifiers(text: str) -> list[str]:
    return [name for name in _IDENTIFIER.findall(text) if not keyword.iskeyword(name)]


def _distinct(order: int) -> Metric:
    score = _mean_of(lambda one: math.fsum(distinct(text, order) for text in one.texts) / len(one.texts))
    return Metric(f"distinct_{order}", score, mean, references=False)


def _pass_at(k: int) -> Metric:
    def estimate(one: Answered) -> float:
        return pass_at(k, len(one.verdicts), sum(verdict >= 1.0 for verdict in one.verdicts))

    return Metric(f"pass@{k}", _mean_of(estimate), mean, references=False, verified=True, samples=k)


def _verified(one: Answered) -> float:
    return math.fsum(one.verdicts) / len(one.verdicts)


@cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=False)


def _rouge(name: str, kind: str) -> Metric:
    def measure(text: str, reference: str) -> float:
        return float(_rouge_scorer(kind).score(reference, text)[kind].fmeasure)

    return Metric(name, _each(measure), mean)


@cache
def _sacrebleu(kind: str) -> Any:
    import sacrebleu

    return getattr(sacrebleu, kind)()


def _corpus(name: str, kind: str) -> Metric:
    """Return a metric of sacrebleu, with its own statistics of each sentence and its own way to combine them.

    A text is scored against all of its references at once, and an example's answers are sentences each.
    """

    def statistics(answers: Sequence[Answered]) -> Array:
        metric, rows = _sacrebleu(kind), []
        for one in answers:
            references = [[reference] for reference in one.example.references]
            every = [metric._extract_corpus_statistics([text], references)[0] for text in one.texts]
            rows.append(np.sum(every, axis=0, dtype=np.float64))
        return np.array(rows)

    def combine(sums: Array) -> Array:
        metric = _sacrebleu(kind)
        return np.array([metric._compute_score_from_stats([int(n) for n in row]).score for row in sums])

    return Metric(name, statistics, combine, share=False)


EXACT_MATCH = Metric("exact_match", _each(exact_match), mean)
QUASI_EXACT_MATCH = Metric("quasi_exact_match", _each(quasi_exact_match), mean)
TOKEN_F1 = Metric("token_f1", _each(token_f1), mean)
EDIT_SIMILARITY = Metric("edit_similarity", _each(edit_similarity), mean)
IDENTIFIER_F1 = Metric("identifier_f1", _each(identifier_f1), mean)
BLEU = _corpus("bleu", "BLEU")
CHRF = _corpus("chrf", "CHRF")
ROUGE_1 = _rouge("rouge_1", "rouge1")
ROUGE_2 = _rouge("rouge_2", "rouge2")
ROUGE_L = _rouge("rouge_l", "rougeL")
DISTINCT_1 = _distinct(1)
DISTINCT_2 = _distinct(2)
VERIFIED = Metric("verified", _mean_of(_verified), mean, references=False, verified=True, share=False)


def find_metric(name: str) -> Metric:
    """Return a metric by its name in ``configs/components.yaml``, by a package's, or by its dotted path.

    ``pass@k`` is there for any k besides.

    Raises:
        ConfigError: there is none; the sentence names the nearest, or all.
    """
    if match := _PASS_AT.fullmatch(name):
        return _pass_at(int(match[1]))
    found: Metric = find("metrics", name, "metric", or_else="pass@k")
    return found
