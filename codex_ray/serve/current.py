"""Which model an application serves now, where that is no longer the one it began with.

Kept in Ray's own store of keys and values, beside what Ray Serve keeps there, so that replicas which come
later begin with it; it is there as long as the cluster's head is.
"""

from __future__ import annotations

from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

_NAMESPACE = b"codex_ray_serve"


def current(deployment: str) -> str | None:
    """The model that a deployment was changed to."""
    found = _internal_kv_get(deployment.encode(), namespace=_NAMESPACE)
    return None if found is None else str(found.decode())


def set_current(deployment: str, model: str) -> None:
    """Have replicas of a deployment begin with another model."""
    _internal_kv_put(deployment.encode(), model.encode(), overwrite=True, namespace=_NAMESPACE)
