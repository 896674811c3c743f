"""Requests and tokens per minute of each key, at one front."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from codex_ray.serve.errors import ApiError
from codex_ray.serve.keys import Key


@dataclass
class _Bucket:
    """What is left of an allowance that fills up again within a minute."""

    level: float
    since: float

    def fill(self, per_minute: float, now: float) -> None:
        self.level = min(per_minute, self.level + (now - self.since) * per_minute / 60)
        self.since = now


@dataclass
class Budgets:
    """Allowances by key."""

    _buckets: dict[tuple[str, str], _Bucket] = field(default_factory=dict)

    def enter(self, key: Key) -> None:
        """Let a request in.

        Raises:
            ApiError: the key's requests or tokens of this minute are used up.
        """
        tokens = self._bucket(key.id, "tokens", key.tokens_per_minute)
        if tokens is not None and key.tokens_per_minute and tokens.level <= 0:
            raise _spent("tokens", key.tokens_per_minute, 1 - tokens.level)
        requests = self._bucket(key.id, "requests", key.requests_per_minute)
        if requests is not None and key.requests_per_minute:
            if requests.level < 1:
                raise _spent("requests", key.requests_per_minute, 1 - requests.level)
            requests.level -= 1

    def charge(self, key: Key, tokens: int) -> None:
        """Count tokens that a request has used; more than were left count against the next."""
        bucket = self._bucket(key.id, "tokens", key.tokens_per_minute)
        if bucket is not None:
            bucket.level -= tokens

    def _bucket(self, owner: str, kind: str, per_minute: float | None) -> _Bucket | None:
        if per_minute is None:
            return None
        now = time.monotonic()
        bucket = self._buckets.setdefault((owner, kind), _Bucket(per_minute, now))
        bucket.fill(per_minute, now)
        return bucket


def _spent(what: str, per_minute: float, missing: float) -> ApiError:
    wait = max(1, round(missing * 60 / per_minute + 0.5))
    return ApiError(
        429,
        f"this key has used its {per_minute:g} {what} per minute; try again in {wait} s",
        code="rate_limit_exceeded",
        retry_after=wait,
    )
