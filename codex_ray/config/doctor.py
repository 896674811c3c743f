"""Settings of `doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.fields import setting


@dataclass(frozen=True)
class Doctor:
    """Say what this machine, or a cluster, lacks."""

    address: str | None = setting(
        None,
        help="a cluster to look at, as host:port of its head; unset is RAY_ADDRESS, or else this machine",
    )
    folder: str = setting(".", help="where runs are to be written; on a cluster, all nodes must see it")
    json: bool = setting(False, help="print one JSON object in place of lines")
    least_free_bytes: int = setting(4 * 2**30, minimum=0, help="disk space that counts as enough, in bytes")
    most_clock_skew_seconds: float = setting(
        1.0, minimum=0.0, help="largest difference between a node's clock and this one's"
    )
    transfer_bytes: int = setting(
        8 * 2**20, minimum=4, help="size of the tensors by which bandwidth is measured, in bytes"
    )
    timeout_seconds: float = setting(60.0, minimum=1.0, help="longest wait for a node, or for two to meet")
