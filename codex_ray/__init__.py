"""codex_ray: the whole life of a language model on one Ray cluster.

The verbs of the command line as functions, imported on first use::

    import codex_ray

    codex_ray.prepare("stdlib", output="corpus")
    run = codex_ray.pretrain("model=mhc-tiny", corpus="corpus", train={"steps": 200})

Words are those of the command line; keyword arguments are plain values, nested by section. Importing this
package imports neither torch nor Ray.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__version__ = "0.1.0"
__all__ = [
    "discover",
    "evaluate",
    "export",
    "finetune",
    "generate",
    "inspect",
    "load",
    "plan",
    "prepare",
    "pretrain",
    "quickstart",
    "sweep",
    "upcycle",
]

_VERBS = (
    *("prepare", "pretrain", "finetune", "discover", "evaluate", "generate", "export", "upcycle", "inspect"),
    *("plan", "quickstart", "sweep"),
)


def _call(verb: str, *words: str, config_file: Path | str | None = None, **values: Any) -> Any:
    """Run a verb with the words of the command line and plain values, and return its result.

    Raises:
        ConfigError: the settings are wrong; one sentence says how.
        CodexRayError: the run failed; one sentence says why.
    """
    from codex_ray.config.compose import compose
    from codex_ray.config.verbs import find_verb

    return find_verb(verb).run(compose(verb, words, config_file, values))


def load(
    path: str | Path, *, device: str = "cpu", dtype: str = "float32", revision: str | None = None
) -> Any:
    """Load the model of a run folder or of any Transformers model folder, ready for inference.

    Args:
        path: run folder, model folder or Hub name.
        device: ``cpu``, ``cuda`` or ``auto``.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto``.
        revision: Hub revision (branch, tag or commit).
    """
    from codex_ray.model import load_model

    return load_model(path, device=device, dtype=dtype, revision=revision)


def _function(verb: str) -> Callable[..., Any]:
    def run(*words: str, config_file: Path | str | None = None, **values: Any) -> Any:
        return _call(verb, *words, config_file=config_file, **values)

    run.__name__ = run.__qualname__ = verb
    run.__doc__ = f"Run ``codex-ray {verb}``; see the package's docstring for what it takes."
    return run


class _VerbModule(ModuleType):
    """A submodule that has a verb's name: calling it runs the verb."""

    def __call__(self, *words: str, config_file: Path | str | None = None, **values: Any) -> Any:
        return _call(self.__name__.rpartition(".")[2], *words, config_file=config_file, **values)


class _Package(ModuleType):
    """This package: importing a submodule called like a verb must not take the function's place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS and isinstance(value, ModuleType):
            value.__class__ = _VerbModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'codex_ray' has no attribute {name!r}")
    if importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    return _function(name)
