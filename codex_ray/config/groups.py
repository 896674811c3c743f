"""The shipped YAML under ``configs/``: groups, their choices, and what Hydra composes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.config import saved
from codex_ray.errors import ConfigError

_GLOBAL = "_global_"


@dataclass(frozen=True)
class Slot:
    """A place where a verb takes one choice of a group.

    Attributes:
        group: folder under ``configs/``.
        package: dotted section the choice fills; ``_global_`` for whole runs.
        default: the choice taken when none is named; ``None`` for none.
        explicit: whether the package is written beside the group in ``configs/VERB.yaml``.
        whole: whether its files set several sections at once (``# @package _global_``).
    """

    group: str
    package: str
    default: str | None
    explicit: bool
    whole: bool

    @property
    def hydra_key(self) -> str:
        """The group as Hydra's override grammar names it."""
        return f"{self.group}@{self.package}" if self.explicit else self.group

    @property
    def names(self) -> set[str]:
        """What a user may call it: the group, the section, or Hydra's ``group@section``."""
        section = set() if self.whole else {self.package}
        return {self.group, f"{self.group}@{self.package}"} | section


def configs_folder() -> Path:
    """Return the folder of shipped YAML: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "pretrain.yaml").is_file():
            return folder
    raise ConfigError(f"the shipped configs are missing beside {package}; install codex-ray again")


def verb_slots(verb: str) -> list[Slot]:
    """Return the groups that ``configs/VERB.yaml`` lists, in its order."""
    path = configs_folder() / f"{verb.replace(' ', '_')}.yaml"
    if not path.is_file():
        return []
    slots = []
    for entry in saved.read(path).get("defaults", []):
        if isinstance(entry, dict):
            ((name, default),) = entry.items()
            group, _, package = name.partition("@")
            header = _header_package(group)
            slots.append(Slot(group, package or header, default, bool(package), header == _GLOBAL))
    return slots


def group_choices(group: str) -> list[str]:
    """Return the choices of a group: the names of its files."""
    return sorted(path.stem for path in (configs_folder() / group).glob("*.yaml"))


def composed(verb: str, choices: Mapping[Slot, str]) -> dict[str, Any]:
    """Return what ``configs/VERB.yaml`` and its groups set for a verb, as plain nested data."""
    name = verb.replace(" ", "_")
    if not (configs_folder() / f"{name}.yaml").is_file():
        return {}
    # Hydra takes a tenth of a second to import; verbs without groups do without it.
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [f"{slot.hydra_key}={choice}" for slot, choice in choices.items()]
    try:
        with _hydra_of_our_own():
            config = hydra_compose(name, overrides)
        data = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(
            f"the configs of {verb!r} cannot be composed: {str(error).splitlines()[0]}"
        ) from error
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


@contextmanager
def _hydra_of_our_own() -> Iterator[None]:
    """Open Hydra on the shipped configs; a caller that uses Hydra itself gets its own state back."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    callers = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(configs_folder()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = callers


def _header_package(group: str) -> str:
    """Return the section that a group's files fill: their ``# @package`` line, or the group's name."""
    for path in (configs_folder() / group).glob("*.yaml"):
        match = re.match(r"#\s*@package\s+(\S+)", path.read_text(encoding="utf-8"))
        if match:
            return match[1]
    return group.replace("/", ".")
