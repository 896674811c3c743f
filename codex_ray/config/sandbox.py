"""Settings of the sandbox, in which code that a model wrote runs."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.fields import setting

LAYERS = ("users", "files", "network", "processes", "system_calls")


@dataclass(frozen=True)
class Sandbox:
    """What a program may use, and what it may reach where the host cannot hold it."""

    wall_seconds: float = setting(
        10.0, minimum=0.05, help="longest time of a program, all calls of it together"
    )
    cpu_seconds: int = setting(10, minimum=1, help="processor time of each process of a program")
    memory_bytes: int = setting(
        2**30,
        minimum=2**24,
        help="memory of a program, all its processes together, beyond the interpreter's own",
    )
    processes: int = setting(16, minimum=1, help="processes and threads that a program may have at a time")
    output_bytes: int = setting(2**16, minimum=0, help="what a program may print, errors included")
    result_bytes: int = setting(2**20, minimum=64, help="length of one result, as JSON")
    disk_bytes: int = setting(2**26, minimum=2**12, help="size of the folder that a program may write in")
    modules: list[str] = setting(
        ["numpy"],
        help="modules that programs may import beside the standard library; they are imported ahead",
    )
    uncontained: list[str] = setting(
        [],
        help="layers that may be missing on this host; what they would have held is then not contained: "
        + ", ".join(LAYERS),
    )
