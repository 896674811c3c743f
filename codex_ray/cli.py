"""The command line: ``codex-ray VERB [PATH] [group=choice] [key=value ...] [options]``.

Settings come from :mod:`codex_ray.config`; the verb's function does the work. Every failure ends in one
sentence on standard error and an exit status: 1 failed, 2 bad usage or settings, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from codex_ray import __version__
from codex_ray.config.compose import compose
from codex_ray.config.saved import dumps
from codex_ray.config.verbs import VERBS, Verb, find_verb
from codex_ray.errors import CodexRayError, ConfigError, Interrupted, nearest
from codex_ray.plugins import broken

_WITH_VALUE = ("--config", "--submit")
_AS_SETTINGS = {"--write-config": "write_config"}  # options that are another way to write a setting
_AS_TRUE = {"--json": "json=true"}
_FLAGS = ("--dry-run", "--help", "-h", "--version")


@dataclass
class _Request:
    words: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)


def entry() -> None:
    """Run the command line of this process and exit with its status."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; nothing is raised."""
    # torch's threads spin while they wait; beside any other load that costs ten times the work itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        status = _run(_parse(arguments))
        sys.stdout.flush()
        return status
    except CodexRayError as error:
        # What a Ray worker raised arrives wrapped in its traceback; the sentence is the cause's.
        inner = getattr(error, "cause", error)
        return _fail(str(inner), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", Interrupted.exit_code)
    except BrokenPipeError:
        # The reader left (`| head`): keep the interpreter from complaining while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        reason = " ".join(str(error).split()) or "no message"
        return _fail(
            f"{type(error).__name__}: {reason}; this is a bug of codex-ray or of a library under it, "
            "CODEX_RAY_TRACEBACK=1 shows where",
            1,
        )


def _fail(sentence: str, status: int) -> int:
    if os.environ.get("CODEX_RAY_TRACEBACK") == "1":
        traceback.print_exc()
    print(f"codex-ray: error: {sentence}", file=sys.stderr)
    return status


def _parse(arguments: Sequence[str]) -> _Request:
    request = _Request()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, separator, value = word.partition("=")
        if name in _WITH_VALUE:
            if not separator and not rest:
                raise ConfigError(f"{name} needs a value after it")
            request.options[name] = value if separator else rest.pop(0)
        elif name in _AS_SETTINGS:
            if not separator and not rest:
                raise ConfigError(f"{name} needs a value after it")
            request.words.append(f"{_AS_SETTINGS[name]}={value if separator else rest.pop(0)}")
        elif word in _AS_TRUE:
            request.words.append(_AS_TRUE[word])
        elif word in _FLAGS:
            request.flags.add("--help" if word == "-h" else word)
        elif word.startswith("-"):
            hint = (
                nearest(name, [*_WITH_VALUE, *_FLAGS]) or "; settings are given without dashes, as key=value"
            )
            raise ConfigError(f"unknown option {name!r}{hint}")
        else:
            request.words.append(word)
    return request


def _run(request: _Request) -> int:
    # Help is imported only where it is printed: it reads every shipped YAML file.
    if "--version" in request.flags:
        print(f"codex-ray {__version__}")
        return 0
    if not request.words:
        from codex_ray.config.help import overview

        print(overview(__version__), file=sys.stdout if "--help" in request.flags else sys.stderr)
        return 0 if "--help" in request.flags else ConfigError.exit_code
    if "--help" in request.flags:
        return _help(request.words)
    verb, words = _split_verb(request.words)
    config_file = request.options.get("--config")
    settings = compose(verb.name, words, config_file)
    if "--dry-run" in request.flags:
        print(dumps(settings) + verb.shown(settings), end="")
        return 0
    if "--submit" in request.options:
        from codex_ray.cluster.jobs import submit

        return submit(request.options["--submit"], verb.name, words, config_file, settings)
    for sentence in broken().values():
        print(f"codex-ray: note: {sentence}", file=sys.stderr)
    verb.run(settings)
    return 0


def _help(words: list[str]) -> int:
    from codex_ray.config.help import verb_group_help, verb_help

    if words[0] not in VERBS and any(name.startswith(f"{words[0]} ") for name in VERBS) and len(words) == 1:
        print(verb_group_help(words[0]))
    else:
        print(verb_help(_split_verb(words)[0]))
    return 0


def _split_verb(words: list[str]) -> tuple[Verb, list[str]]:
    """Split the verb, of one word or two, from the words that follow it."""
    grouped = words[0] not in VERBS and any(name.startswith(f"{words[0]} ") for name in VERBS)
    two_words = grouped or " ".join(words[:2]) in VERBS
    length = 2 if two_words else 1
    return find_verb(" ".join(words[:length])), words[length:]
