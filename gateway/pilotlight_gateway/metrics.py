"""The gateway's own Prometheus metrics, beside those of the serving shell and of leases."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from pilotlight_engine.admission import QueueGauges

WAYS = Counter("pilotlight_gateway_ways", "Requests by the way they went", ["way"])
REQUESTS = Counter(
    "pilotlight_gateway_requests",
    "Requests with a known endpoint, by route, priority and status",
    ["route", "priority", "status"],
)
SECONDS = Histogram(
    "pilotlight_gateway_request_seconds",
    "Seconds until an answer has ended, by route and priority",
    ["route", "priority"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
FIRST_BYTE = Histogram(
    "pilotlight_gateway_first_byte_seconds",
    "Seconds until an answer began, by route and priority",
    ["route", "priority"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
TOKENS = Counter("pilotlight_gateway_tokens", "Tokens of answered requests, also of cut ones", ["kind"])
LIMITED = Counter("pilotlight_gateway_limited", "Requests refused by their tenant's limits, by which", ["limit"])
RETRIES = Counter("pilotlight_gateway_retries", "Requests sent again before their first byte, by why", ["why"])
BREAKERS = Gauge("pilotlight_gateway_breakers", "Replicas whose breaker is open, or half open", ["standing"])
ENDPOINTS = Gauge("pilotlight_gateway_endpoints", "Endpoints that the directory tells of")
LOG_LINES_LOST = Counter("pilotlight_gateway_log_lines_lost", "Lines of the request log that nobody took in time")
RESUMES = Counter("pilotlight_gateway_resumes", "Streams that were cut after their first byte, by outcome", ["outcome"])
WENT = {way: WAYS.labels(way) for way in ("short", "pods")}
PROMPT_TOKENS, OUTPUT_TOKENS = TOKENS.labels("prompt"), TOKENS.labels("output")
ENDPOINTS_OPEN = Gauge("pilotlight_gateway_endpoints_open", "Endpoints of which this process holds more than an entry")
TEXT_BYTES = Gauge("pilotlight_gateway_text_bytes", "Memory in this process of texts that are loaded")
TEXT_WORKER_BYTES = Gauge(
    "pilotlight_gateway_text_worker_bytes", "Memory of the processes that hold tokenizers and templates"
)
TEXTS = Counter("pilotlight_gateway_texts", "Tokenizers and templates asked of the cache", ["outcome"])
REFUSED = Counter("pilotlight_gateway_refused", "Requests refused by the short way's admission", ["reason"])
SEQUENCES = Gauge("pilotlight_gateway_sequences_in_flight", "Admitted sequences that have not ended")
PROMISED_TOKENS = Gauge("pilotlight_gateway_promised_tokens", "Tokens that the admitted requests may come to hold")
CONFIG_RELOADS = Counter("pilotlight_gateway_config_reloads", "Times the configuration was read again", ["outcome"])
CONFIG_BROKEN = Gauge("pilotlight_gateway_config_broken", "1 while the configuration file is not what is in force")
ROUTED = Counter("pilotlight_gateway_routed", "Requests by a route, by its label, by why and how", ["label", "why"])
CANARY_SHARE = Gauge("pilotlight_gateway_canary_percent", "The share of a labelled route's canary", ["label"])
CANARIES_TAKEN_BACK = Counter("pilotlight_gateway_canaries_taken_back", "Canaries that did worse", ["label"])
CASCADED = Counter("pilotlight_gateway_cascaded", "First answers of cascades, by what became of them", ["outcome"])
UNBILLED = Counter(
    "pilotlight_gateway_unbilled_tokens", "Tokens of answers that nobody got, as another one was given", ["kind"]
)
MIRRORED = Counter("pilotlight_gateway_mirrored", "Copies of requests to a route's mirror", ["outcome"])

PROMISED = QueueGauges(SEQUENCES, PROMISED_TOKENS, REFUSED.labels)
"""For all endpoints together."""


@cache
def seconds(route: str, priority: str) -> Histogram:
    """Looked up once: there are as many as routes times priorities."""
    return SECONDS.labels(route, priority)


@cache
def first_byte(route: str, priority: str) -> Histogram:
    return FIRST_BYTE.labels(route, priority)


@cache
def requests(route: str, priority: str, status: int) -> Counter:
    return REQUESTS.labels(route, priority, str(status))


@cache
def config_reloads(outcome: str) -> Counter:
    return CONFIG_RELOADS.labels(outcome)


@cache
def routed(label: str, why: str) -> Counter:
    return ROUTED.labels(label, why)


@cache
def mirrored(outcome: str) -> Counter:
    return MIRRORED.labels(outcome)


@cache
def cascaded(outcome: str) -> Counter:
    return CASCADED.labels(outcome)


@cache
def unbilled(kind: str) -> Counter:
    return UNBILLED.labels(kind)
