"""The shell's own Prometheus metrics, KServe's name for a request's time among them, and the text of `/metrics`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

from pilotlight_wire.handlers import Reply

# KServe's name, label and buckets, so that its dashboards find it.
PREDICT = Histogram("request_predict_seconds", "predict request latency", ["model_name"])
REQUESTS = Counter("pilotlight_requests", "Requests answered, by transport and status", ["transport", "status"])
IN_FLIGHT = Gauge("pilotlight_requests_in_flight", "Requests being answered now")
PHASE = Histogram(
    "pilotlight_request_phase_seconds",
    "Phases of a request, as in its Server-Timing header",
    ["phase"],
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

_MOST_PHASES = 64
"""Other servers name them, too: a metric must not grow with what they send."""

_FAMILY = re.compile(rb"^# (?:HELP|TYPE) (\S+)", re.MULTILINE)


def predict_observer(model_name: str) -> Callable[[float], None]:
    """Observes seconds in `request_predict_seconds` for this model: once for each counted request."""
    return PREDICT.labels(model_name=model_name).observe


@cache
def answered(transport: str, status: str) -> Counter:
    """Looked up once: a label's child costs three times what counting does."""
    return REQUESTS.labels(transport, status)


_phases: dict[str, Histogram] = {}


def phase_seconds(phase: str) -> Histogram:
    known = _phases.get(phase)
    if known is None:
        if len(_phases) >= _MOST_PHASES:
            return PHASE.labels("other")
        known = _phases[phase] = PHASE.labels(phase)
    return known


def exposition(model_metrics: bytes) -> bytes:
    """This process's metrics, then the model's, without the families (of Python and the process) that both have."""
    own: bytes = generate_latest(REGISTRY)
    return own + without_families(model_metrics, frozenset(_FAMILY.findall(own)))


def exposed(model_metrics: bytes = b"") -> Reply:
    """The answer of `/metrics`."""
    return Reply(exposition(model_metrics), content_type="text/plain; version=0.0.4; charset=utf-8")


def without_families(text: bytes, dropped: frozenset[bytes]) -> bytes:
    """Prometheus text without the families in `dropped`: a family starts at its HELP or TYPE line."""
    kept: list[bytes] = []
    keep = True
    for line in text.splitlines(keepends=True):
        family = _FAMILY.match(line)
        if family is not None:
            keep = family[1] not in dropped
        if keep:
            kept.append(line)
    if kept and not kept[-1].endswith(b"\n"):
        kept.append(b"\n")
    return b"".join(kept)
