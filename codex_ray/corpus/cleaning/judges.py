"""Steps that users write: classes named in the configuration, by dotted path."""

from __future__ import annotations

from typing import Any

from codex_ray.corpus.cleaning.decode import no_text
from codex_ray.corpus.raw import Dropped
from codex_ray.errors import ConfigError
from codex_ray.plugins import find


class JudgeFailed(Exception):
    """A user's step raised an error, or returned what is neither text nor ``Dropped``."""


class Judge:
    """A user's class, held to what a step may do.

    Args:
        path: dotted path of a class that takes no arguments and has ``name`` and ``apply``.

    Raises:
        ConfigError: there is no such class, or it is not one of that kind.
    """

    def __init__(self, path: str) -> None:
        self._judge = _made(path)
        self.name = str(self._judge.name)

    def apply(self, text: str, name: str) -> str | Dropped:
        """Ask the user's class.

        Raises:
            JudgeFailed: it failed; the message says how.
        """
        try:
            verdict = self._judge.apply(text, name)
        except Exception as error:
            raise JudgeFailed(f"{self.name}: {type(error).__name__}: {error}") from error
        if isinstance(verdict, Dropped):
            return verdict
        if not isinstance(verdict, str):
            raise JudgeFailed(f"{self.name} returned {type(verdict).__name__}, neither text nor Dropped")
        if problem := no_text(verdict):
            raise JudgeFailed(f"{self.name} returned what is no text ({problem})")
        return verdict


def _made(path: str) -> Any:
    wanted = f"clean.judges: {path!r}"
    found = find("filters", path, "clean.judges")
    if not isinstance(found, type) or not callable(getattr(found, "apply", None)):
        raise ConfigError(f"{wanted} is not a class with a method apply(text, name); write one")
    try:
        judge = found()
    except Exception as error:
        raise ConfigError(
            f"{wanted} cannot be made ({type(error).__name__}: {error}); its constructor takes no arguments"
        ) from error
    if not isinstance(getattr(judge, "name", None), str):
        raise ConfigError(
            f"{wanted} has no name; give the class one, such as name = {found.__name__.lower()!r}"
        )
    return judge
