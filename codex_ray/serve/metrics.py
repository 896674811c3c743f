"""Prometheus metrics of a front, under vLLM's names with our prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from codex_ray.serve.answering import Account

FIRST = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    30.0,
    60.0,
)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
WHOLE = (0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counts of the requests that went through this front, and how its engines stand when asked."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        names = ["model_name"]

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"codex_ray:{name}", text, names, registry=self._registry, buckets=buckets)

        def counter(name: str, text: str, more: tuple[str, ...] = ()) -> Counter:
            return Counter(f"codex_ray:{name}", text, [*names, *more], registry=self._registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"codex_ray:{name}", text, names, registry=self._registry)

        self._prompts = counter("prompt_tokens", "Tokens of prompts.")
        self._drawn = counter("generation_tokens", "Tokens drawn.")
        self._outcomes = counter("requests", "Requests by outcome.", ("outcome",))
        self._masked = counter("masked_requests", "Requests in whose answer a secret was masked.")
        self._first = histogram("time_to_first_token_seconds", "Until the first text.", FIRST)
        self._gaps = histogram("inter_token_latency_seconds", "Between two pieces of text.", GAPS)
        self._whole = histogram("e2e_request_latency_seconds", "Of a whole request.", WHOLE)
        self._running = gauge("num_requests_running", "Sequences being decoded.")
        self._waiting = gauge("num_requests_waiting", "Sequences waiting for a slot.")

    def count(self, model: str, account: Account, seconds: float) -> None:
        """Count a request that has ended."""
        self._prompts.labels(model).inc(account.prompt_tokens)
        self._drawn.labels(model).inc(account.drawn_tokens)
        self._outcomes.labels(model, account.outcome).inc()
        if account.masked:
            self._masked.labels(model).inc()
        if account.first is not None:
            self._first.labels(model).observe(account.first)
        for gap in account.gaps:
            self._gaps.labels(model).observe(gap)
        self._whole.labels(model).observe(seconds)

    def text(self, stands: Mapping[str, Mapping[str, Any]]) -> bytes:
        """All metrics, with how each model's engine stands."""
        for model, stand in stands.items():
            self._running.labels(model).set(stand["running"])
            self._waiting.labels(model).set(stand["waiting"])
        found: bytes = generate_latest(self._registry)
        return found
