"""What waits for its turn, over all endpoints and tenants together: no label tells of one of them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from pilotlight_protocol.request_priority import PRIORITIES

_WAITING = Gauge("pilotlight_gateway_waiting", "Requests that wait for their turn, by priority", ["priority"])
_WAITED = Histogram(
    "pilotlight_gateway_waited_seconds",
    "Seconds that requests waited for their turn, of those that had to",
    ["priority"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
_TURNED_AWAY = Counter(
    "pilotlight_gateway_turned_away",
    "Requests turned away by the queue, by priority and reason",
    ["priority", "reason"],
)
WAITING = {name: _WAITING.labels(name) for name in PRIORITIES}
WAITED = {name: _WAITED.labels(name) for name in PRIORITIES}
TURNED_AWAY = {
    (name, reason): _TURNED_AWAY.labels(name, reason) for name in PRIORITIES for reason in ("full", "late", "gave_way")
}
