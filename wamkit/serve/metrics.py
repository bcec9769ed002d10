"""Metrics of a server in the text format of Prometheus, through prometheus-client."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ..errors import WamkitError
from ..files.install import install_hint

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of the histograms of seconds."""
BATCHES = (1, 2, 4, 8, 16, 32, 64)
GAUGES = {
    "clients": "Websocket connections.",
    "sessions": "Sessions, those of clients that are expected back included.",
    "queue": "Requests that wait for their turn.",
    "message_bytes": "Bytes of messages that are half there, wait, or are being answered.",
}
OUTCOMES = ("answered", "refused", "busy", "failed")


class Metrics:
    """What the server counted so far. Without prometheus-client nothing is counted."""

    def __init__(self) -> None:
        self.registry: Any = None
        if find_spec("prometheus_client") is None:
            return
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self._requests = Counter(
            "wamkit_requests", "Requests by outcome.", ["outcome"], registry=self.registry
        )
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        self._total = Histogram(
            "wamkit_request_seconds",
            "Seconds from receiving a request to its reply.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._policy = Histogram(
            "wamkit_policy_seconds",
            "Seconds that the policy took for a batch.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "wamkit_batch_size",
            "Requests that were computed together.",
            buckets=BATCHES,
            registry=self.registry,
        )
        self._gauges = {
            name: Gauge(f"wamkit_{name}", text, registry=self.registry)
            for name, text in GAUGES.items()
        }

    def count(self, outcome: str, seconds: float | None = None) -> None:
        """Count a request, and its seconds if it was answered with actions."""
        if self.registry is None:
            return
        self._requests.labels(outcome).inc()
        if seconds is not None:
            self._total.observe(seconds)

    def observe_batch(self, size: int, seconds: float) -> None:
        """Count a batch that the policy computed."""
        if self.registry is not None:
            self._batch.observe(size)
            self._policy.observe(seconds)

    def render(self, gauges: Mapping[str, float]) -> bytes:
        """The text that Prometheus reads; `gauges` are the values of now.

        Raises WamkitError if prometheus-client is not installed.
        """
        if self.registry is None:
            raise WamkitError(
                "metrics need prometheus-client, which is not installed", install_hint("metrics")
            )
        from prometheus_client import generate_latest

        for name, value in gauges.items():
            self._gauges[name].set(value)
        return generate_latest(self.registry)
