"""Every rule a document can be dropped by: its bound, and where it was published.

The report and the documentation show this table; thresholds are written once, beside the rules.
"""

from __future__ import annotations

from typing import NamedTuple

from codex_ray.corpus.cleaning import code, gopher, web

_GOPHER = "Gopher, Rae et al. 2021 (arXiv:2112.11446), appendix A.1.1"
_TABLE = f"{_GOPHER}, table A1"
_C4 = "C4, Raffel et al. 2020 (JMLR 21:140), section 2.2"
_FINEWEB = "FineWeb, Penedo et al. 2024 (arXiv:2406.17557), section 3.6"
_STACK = (
    "The Stack, Kocetkov et al. 2022 (arXiv:2211.15533); "
    "Codex, Chen et al. 2021 (arXiv:2107.03374), section 3.1"
)
_STARCODER2 = "StarCoder 2, Lozhkov et al. 2024 (arXiv:2402.19173), filters of The Stack v2"
_OWN = "this project"


class Rule(NamedTuple):
    """What a document must be to pass, and the publication the bound is from."""

    bound: str
    source: str


def _gopher_repetition() -> dict[str, Rule]:
    g = gopher
    rules = {
        "gopher_repetition/empty": Rule("some text", _OWN),
        "gopher_repetition/repeated_paragraphs": Rule(f"at most {g.MAX_REPEATED}", _TABLE),
        "gopher_repetition/repeated_paragraph_characters": Rule(
            f"at most {g.MAX_REPEATED_CHARACTERS}", _TABLE
        ),
        "gopher_repetition/repeated_lines": Rule(f"at most {g.MAX_REPEATED}", _TABLE),
        "gopher_repetition/repeated_line_characters": Rule(f"at most {g.MAX_REPEATED_CHARACTERS}", _TABLE),
    }
    for n, bound in g.TOP_NGRAMS.items():
        rules[f"gopher_repetition/top_{n}_gram"] = Rule(f"at most {bound} of characters", _TABLE)
    for n, bound in g.REPEATED_NGRAMS.items():
        rules[f"gopher_repetition/repeated_{n}_grams"] = Rule(f"at most {bound} of characters", _TABLE)
    return rules


def _table() -> dict[str, Rule]:
    g, w, c = gopher, web, code
    return {
        "length/too_short": Rule("at least clean.min_bytes", _OWN),
        "length/too_long": Rule("at most clean.max_bytes", _OWN),
        "generated_code/marker": Rule(
            f"no generator's mark in the first {c.FIRST_LINES} lines",
            f"{_STARCODER2}, in 5 lines; more marks and lines are this project's",
        ),
        "minified_code/mean_line_length": Rule(f"at most {c.MAX_MEAN_LINE} characters", _STACK),
        "minified_code/longest_line": Rule(
            f"at most {c.MAX_LINE} characters; {c.MAX_MARKUP_LINE} in markup", f"{_STACK}; {_STARCODER2}"
        ),
        "minified_code/alphabetic": Rule(f"at least {c.MIN_ALPHABETIC} of characters are letters", _STACK),
        "data_files/encoded_run": Rule(
            f"at most {c.MAX_ENCODED_RUN} characters of base64, hexadecimal or escapes on end", _STARCODER2
        ),
        "data_files/encoded": Rule(f"at most {c.MAX_ENCODED} of characters in such runs", _STARCODER2),
        "data_files/digits": Rule(f"at most {c.MAX_DIGITS} of characters are digits", _OWN),
        "data_files/lines": Rule(f"at most {c.MAX_LINES}", _STARCODER2),
        **_gopher_repetition(),
        "gopher_quality/min_words": Rule(f"at least {g.MIN_WORDS}", _GOPHER),
        "gopher_quality/max_words": Rule(f"at most {g.MAX_WORDS}", _GOPHER),
        "gopher_quality/mean_word_length": Rule(
            f"from {g.MIN_MEAN_LENGTH:g} to {g.MAX_MEAN_LENGTH:g} characters", _GOPHER
        ),
        "gopher_quality/hash_marks": Rule(f"at most {g.MAX_SYMBOLS} per word", _GOPHER),
        "gopher_quality/ellipses": Rule(f"at most {g.MAX_SYMBOLS} per word", _GOPHER),
        "gopher_quality/bullet_lines": Rule(f"at most {g.MAX_BULLET_LINES} of lines", _GOPHER),
        "gopher_quality/ellipsis_lines": Rule(f"at most {g.MAX_ELLIPSIS_LINES} of lines", _GOPHER),
        "gopher_quality/alphabetic_words": Rule(f"at least {g.MIN_ALPHABETIC} of words", _GOPHER),
        "gopher_quality/stop_words": Rule(f"at least {g.MIN_STOP_WORDS} of eight", _GOPHER),
        "c4/min_sentences": Rule(f"at least {w.MIN_SENTENCES}, in the lines that are kept", _C4),
        "c4/lorem_ipsum": Rule("none", _C4),
        "c4/curly_bracket": Rule("none, in the lines that are kept", _C4),
        "fineweb/empty": Rule("a line with a character on it", _FINEWEB),
        "fineweb/ended_lines": Rule(f"at least {w.MIN_ENDED_LINES} of lines end a sentence", _FINEWEB),
        "fineweb/short_lines": Rule(
            f"at most {w.MAX_SHORT_LINES} of lines have {w.SHORT_LINE} characters or fewer", _FINEWEB
        ),
        "fineweb/repeated_line_characters": Rule(f"at most {w.MAX_REPEATED_LINE_CHARACTERS}", _FINEWEB),
        "fineweb/lines_per_word": Rule(
            f"at most {w.MAX_LINES_PER_WORD}", "FineWeb's filter in datatrove 0.10.1"
        ),
        "language/other": Rule("one of clean.languages", "py3langid"),
        "language/unsure": Rule("at least clean.language_confidence", "FineWeb's 0.65, section 3.3"),
        "redact": Rule("nothing that clean.redact says to drop for", _OWN),
        "decontaminate": Rule(
            "no clean.decontaminate_words words on end of an evaluation text",
            "GPT-3, Brown et al. 2020 (arXiv:2005.14165), appendix C",
        ),
    }


RULES = _table()
