"""vLLM's own metrics of this process, names and labels unchanged."""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.exposition import generate_latest


class _VllmCollectors:
    """Only vLLM's metrics of the default registry: those of this process (`python_info`) collide with the server's."""

    def collect(self) -> list[Any]:
        return [metric for metric in REGISTRY.collect() if metric.name.startswith("vllm:")]


def name_no_adapters(logger_manager: Any) -> None:
    """vLLM counts under a label with the names of all adapters at work: another series for every mixture there was,
    with other tenants' names. `logger_manager`: an engine's StatLoggerManager."""
    for logger in logger_manager.stat_loggers:
        if hasattr(logger, "gauge_lora_info"):
            logger.gauge_lora_info = None


def exposition() -> bytes:
    """vLLM's Prometheus metrics in text format. May be called by any thread."""
    return bytes(generate_latest(_VllmCollectors()))
