"""vLLM's own metrics of this process, names and labels unchanged."""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.exposition import generate_latest


class _VllmCollectors:
    """Only vLLM's metrics of the default registry: those of this process (`python_info`) collide with the server's."""

    def collect(self) -> list[Any]:
        return [metric for metric in REGISTRY.collect() if metric.name.startswith("vllm:")]


def exposition() -> bytes:
    """vLLM's Prometheus metrics in text format. May be called by any thread."""
    return bytes(generate_latest(_VllmCollectors()))
