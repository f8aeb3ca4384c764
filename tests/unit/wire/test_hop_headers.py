"""Addresses and headers on the way to the predictor and back."""

from __future__ import annotations

import pytest

from pilotlight_wire.hop_headers import forwarded_headers, parse_retry_after, parse_server_timing, passed_back
from pilotlight_wire.upstream_address import UpstreamAddress, predictor_address

ADDRESSES = [
    ("demo-predictor.ns", False, UpstreamAddress("demo-predictor.ns", 80, "demo-predictor.ns")),
    ("demo-predictor.ns:8080", False, UpstreamAddress("demo-predictor.ns", 8080, "demo-predictor.ns:8080")),
    ("demo-predictor.ns", True, UpstreamAddress("demo-predictor.ns", 443, "demo-predictor.ns", True)),
    ("d.ns.localhost:9000", False, UpstreamAddress("127.0.0.1", 9000, "d.ns.localhost:9000")),
    ("localhost", False, UpstreamAddress("127.0.0.1", 80, "localhost")),
    ("http://demo:81/", True, UpstreamAddress("demo", 81, "demo:81")),
    ("https://demo", False, UpstreamAddress("demo", 443, "demo", True)),
    ("[::1]:8080", False, UpstreamAddress("::1", 8080, "[::1]:8080")),
    ("[::1]", False, UpstreamAddress("::1", 80, "[::1]")),
]


@pytest.mark.parametrize(("given", "tls", "address"), ADDRESSES)
def test_addresses(given: str, tls: bool, address: UpstreamAddress) -> None:
    assert predictor_address(given, use_tls=tls) == address


@pytest.mark.parametrize("given", ["", ":80", "demo:x", "demo:0", "demo:70000", "http://", "demo/path:80"])
def test_bad_addresses(given: str) -> None:
    with pytest.raises(ValueError, match="--predictor_host"):
        predictor_address(given, use_tls=False)


def test_forwarded_headers() -> None:
    headers = {
        "traceparent": "00-1",
        "tracestate": "a=b",
        "x-pilotlight-priority": "high",
        "x-pilotlight-broken": "a\r\nb",
        "authorization": "secret",
        "cookie": "c",
        "x-request-id": "sent by itself",
    }
    assert forwarded_headers(headers) == {
        "traceparent": "00-1",
        "tracestate": "a=b",
        "x-pilotlight-priority": "high",
    }


@pytest.mark.parametrize(
    ("value", "phases"),
    [
        ("", {}),
        ("queue;dur=1.5, prefill;dur=20", {"queue": 1.5, "prefill": 20.0}),
        ('cache;desc="hit";dur="3"', {'cache;desc="hit"': 3.0}),
        ("miss, bad;dur=x, ;dur=1", {}),
    ],
)
def test_server_timing(value: str, phases: dict[str, float]) -> None:
    assert parse_server_timing(value) == phases


def test_what_passes_back_to_the_client() -> None:
    assert passed_back({"server-timing": "swap;dur=44", "x-pilotlight-slot": "1", "server": "x"}) == {
        "x-pilotlight-slot": "1"
    }


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), ("17", 17.0), ("-3", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None)]
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds
