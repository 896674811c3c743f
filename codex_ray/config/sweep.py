"""Settings of ``sweep``, and how its words are told from those of the verb that it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from codex_ray.config.common import DEFAULT_SEED
from codex_ray.config.fields import setting
from codex_ray.config.tree import WORD, Key
from codex_ray.errors import ConfigError

BASES = ("pretrain", "finetune", "discover")
KINDS = ("choice", "uniform", "log_uniform", "integer")
FUNCTIONS = ("interval", "choice", "range", "tag")  # of Hydra's grammar that give several values
# A sweep's own keys; every other word is the base verb's.
OWN = ("base", "base_config", "paths", "run", "name", "runs", "resume", "sweep")


@dataclass(frozen=True)
class Searching:
    """What is tried, in which order, and what is given up early."""

    space: dict[str, Any] = setting(
        {},
        help="by setting of the base verb: a list of values, or {choice: [...]}, {uniform: [low, high]}, "
        "{log_uniform: [low, high]}, {integer: [low, high, step]}; with {when: {other.setting: value}} it is "
        "only tried there",
    )
    constraints: list[str] = setting(
        [], help="comparisons that must hold, such as 'optimizer.learning_rate * train.batch_tokens < 100'"
    )
    search: str = setting(
        "random",
        choices=("random", "grid", "tpe"),
        help="random draws; grid tries every combination of listed values; tpe learns from finished trials "
        "(Optuna), and takes several metrics",
    )
    trials: int = setting(12, minimum=1, help="trials of random and tpe; a grid has as many as it has")
    metrics: list[str] = setting(
        ["validation_loss"], help="figures of the metrics lines that trials are judged by; the first leads"
    )
    modes: list[str] = setting(
        ["min"], choices=("min", "max"), help="whether a low or a high figure is good, for each metric"
    )
    scheduler: str = setting(
        "none",
        choices=("none", "asha", "hyperband", "median", "pbt"),
        help="asha, hyperband: go on with the best share at growing numbers of tokens; median: give up what "
        "is worse than the median of the others; pbt: the worst go on from the best, with settings moved",
    )
    grace_tokens: int = setting(
        0, minimum=0, help="tokens that every trial has before it may be given up; 0 is an eighth of its run"
    )
    reduction: int = setting(4, minimum=2, help="asha, hyperband: one in so many goes on at each rung")
    segment_steps: int | None = setting(
        None, minimum=1, help="pbt: optimizer steps between comparisons; unset is an eighth of the run"
    )
    concurrent: int | None = setting(
        None, minimum=1, help="trials at a time; unset is what the cluster can hold, whole"
    )
    hours: float | None = setting(None, minimum=0.0, help="time after which no trial goes on; unset has none")
    tokens: int | None = setting(
        None, minimum=1, help="tokens, over all trials, after which none goes on; unset has no limit"
    )
    stall_seconds: float = setting(
        3600.0,
        minimum=1.0,
        help="a trial without a line of metrics for so long, its own recoveries included, has failed",
    )
    keep: int = setting(1, minimum=0, help="best trials whose model and checkpoints are kept")
    scaling: bool = setting(
        False,
        help="a ladder of sizes, with `depth` in the space: fit loss against compute and say what the next "
        "size up would reach",
    )
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of what is drawn; trials have their own `seed`")


@dataclass(frozen=True)
class Sweep:
    """Search the settings of a verb that trains, each trial a whole run of it."""

    base: str = setting("pretrain", choices=BASES, help="verb that each trial is a run of")
    base_config: str | None = setting(None, help="configuration file of the base verb, under `run`")
    paths: list[str] = setting([], help="bare words of the base verb, such as pretrain's corpus")
    run: dict[str, Any] = setting(
        {}, help="settings and group choices of the base verb, by key; on the command line they stand alone"
    )
    name: str | None = setting(None, help="name of the sweep; unset makes one from the time")
    runs: str = setting("runs", help="folder that holds run folders")
    resume: str = setting(
        "never",
        choices=("never", "auto", "must"),
        help="never: refuse a name in use; auto: continue it or start; must: only continue",
    )
    sweep: Searching = setting(Searching, help="what is tried and how")


def sort_words(words: Sequence[str]) -> tuple[list[str], list[tuple[Key, Any]]]:
    """Tell a sweep's own words from the base verb's.

    What names one of the sweep's keys is its own. Of the others, ``key=a,b,c`` (and Hydra's ``choice``,
    ``range`` and ``interval``) is a part of the space; everything else is the base verb's.

    Returns:
        The sweep's own words, and what the others come to, by key of :class:`Sweep`.
    """
    own: list[str] = []
    paths: list[str] = []
    others: list[tuple[Key, Any]] = []
    for word in words:
        match = WORD.fullmatch(word)
        if match is None:
            paths.append(word)
            continue
        key, text = match["key"], match["value"]
        if key.partition(".")[0] in OWN:
            own.append(word)
        elif (several := _several(key, text)) is not None:
            others.append((("sweep", "space", key), several))
        else:
            others.append((("run", key), text))
    return own, others + ([(("paths",), paths)] if paths else [])


def _several(key: str, text: str) -> Any:
    """Return the part of a space that a right side gives in Hydra's grammar of sweeps; None for one value.

    Raises:
        ConfigError: it is one of the grammar's functions with what that does not take.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
    from hydra.errors import HydraException

    if not any(sign in text for sign in ",(") or text[:1] in "[{'\"":
        return None
    try:
        override = OverridesParser.create().parse_override(f"value={text}")
    except HydraException as error:
        if text.partition("(")[0] in FUNCTIONS:
            raise ConfigError(
                f"{key}={text} is not understood; give values, such as {key}=1,2, or bounds, such as "
                f"{key}=interval(1,2)"
            ) from error
        return None
    value: Any = override.value() if override.is_sweep_override() else None
    if isinstance(value, IntervalSweep):
        return {"log_uniform" if "log" in value.tags else "uniform": [value.start, value.end]}
    if isinstance(value, ChoiceSweep | RangeSweep):
        return [getattr(one, "text", one) for one in override.sweep_iterator()]
    return None


def refuse_sweep(settings: Sweep, prefix: str = "") -> None:
    """Refuse what cannot go together in a sweep.

    Raises:
        ConfigError: one sentence with the keys, the numbers and the remedy.
    """
    search = settings.sweep
    if not search.metrics or len(set(search.metrics)) < len(search.metrics):
        raise ConfigError(f"sweep.metrics={search.metrics} is empty or names one twice; give each once")
    if len(search.metrics) != len(search.modes):
        raise ConfigError(
            f"sweep.metrics has {len(search.metrics)} names and sweep.modes {len(search.modes)}; give min or "
            "max for each"
        )
    if len(search.metrics) > 1 and search.search != "tpe":
        raise ConfigError(
            f"sweep.metrics={search.metrics} needs sweep.search=tpe; {search.search} goes by one metric"
        )
    if len(search.metrics) > 1 and search.scheduler != "none":
        raise ConfigError(
            f"sweep.scheduler={search.scheduler} gives trials up by one metric and sweep.metrics has "
            f"{len(search.metrics)}; give sweep.scheduler=none"
        )
    if search.grace_tokens and search.scheduler in ("none", "pbt"):
        raise ConfigError(
            "sweep.grace_tokens is for a scheduler that gives trials up; add sweep.scheduler=asha"
        )
    if search.segment_steps and search.scheduler != "pbt":
        raise ConfigError("sweep.segment_steps is for a population; add sweep.scheduler=pbt")
    if search.scheduler == "pbt" and search.search == "tpe":
        raise ConfigError(
            "sweep.search=tpe chooses each trial by what others came to and sweep.scheduler=pbt needs them "
            "all from the beginning; give sweep.search=random or grid"
        )


RULES: dict[type[Any], Callable[[Any, str], None]] = {Sweep: refuse_sweep}
