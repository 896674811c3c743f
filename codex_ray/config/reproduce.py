"""Settings of `reproduce`."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.fields import setting


@dataclass(frozen=True)
class Reproduce:
    """Run a run again by its records, and compare the two."""

    run: str = setting(help="the run's folder, or its name in `runs`")
    runs: str = setting("runs", help="folder that holds run folders, and gets the new one")
    name: str | None = setting(None, help="name of the new run; unset is that of the first with -again")
    tolerance: float = setting(
        0.0,
        minimum=0.0,
        help="relative difference of figures that still counts as equal; 0 is to the last bit",
    )
    changes: list[str] = setting(
        [], help="settings that differ on purpose, as key=value, such as cluster.address="
    )
