"""What an engine's `/metrics` say of its load, by vLLM's names. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|gpu_cache_usage_perc"
    rb"|generation_tokens_total)(?:\{[^\n}]*\})? ([0-9.eE+-]+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """`as_of_s`: when they were asked for. `requests`: running and waiting. `kv_usage`: from 0 to 1. `generated`:
    tokens since the engine started."""

    as_of_s: float
    requests: float
    kv_usage: float
    generated: float


def read_metrics(text: bytes, as_of_s: float) -> EngineMetrics | None:
    """None where no engine tells anything. Several engines are summed; the fullest cache counts."""
    found: dict[bytes, list[float]] = {}
    for name, value in _LINE.findall(text):
        try:
            found.setdefault(name, []).append(float(value))
        except ValueError:
            continue
    if b"num_requests_running" not in found:
        return None
    requests = sum(found[b"num_requests_running"]) + sum(found.get(b"num_requests_waiting", ()))
    usages = found.get(b"kv_cache_usage_perc") or found.get(b"gpu_cache_usage_perc") or [0.0]
    return EngineMetrics(as_of_s, requests, max(usages), sum(found.get(b"generation_tokens_total", ())))
