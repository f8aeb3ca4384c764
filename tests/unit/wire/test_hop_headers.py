"""Addresses and headers on the way to the predictor and back."""

from __future__ import annotations

import pytest

from pilotlight_wire.hop_headers import (
    forwarded_headers,
    parse_retry_after,
    parse_server_timing,
    passed_back,
    trace_id,
    traced,
)
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


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "given", [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-what-follows"]
)
def test_a_trace_that_can_be_read_is_kept(given: str) -> None:
    headers = {"traceparent": given, "tracestate": "a=b"}
    traced(headers, lambda bits: 1)
    assert headers == {"traceparent": given, "tracestate": "a=b"}
    assert trace_id(headers) == TRACE


@pytest.mark.parametrize(
    "given",
    [None, "", "00-1", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01"]
    + [f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-0g", f"00-{TRACE}-{SPAN}-01\n"],
)
def test_any_other_is_a_new_one(given: str | None) -> None:
    """And what was said of the other one goes with it."""
    headers = {"tracestate": "a=b", **({} if given is None else {"traceparent": given})}
    traced(headers, lambda bits: 0)
    assert headers == {"traceparent": f"00-{1:032x}-{1:016x}-00"}
    assert trace_id(headers) == f"{1:032x}"


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
