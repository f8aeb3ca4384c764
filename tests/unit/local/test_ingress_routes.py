"""Host and path routing, and the header rules of the ingress."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from pilotlight_local.ingress.headers import end_to_end, request_headers, wants_progress
from pilotlight_local.ingress.routes import Destination, EndpointName, find_destination, path_in_pod
from pilotlight_wire.server_timing import Phase, format_phase, parse_phases

DEMO = EndpointName("default", "demo")
ODD = EndpointName("team-a", "my-predictor")


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        ("demo.default.localhost", "/v2", Destination(DEMO, None, "/v2")),
        ("demo.default.localhost:8080", "/v2?x=%2F", Destination(DEMO, None, "/v2?x=%2F")),
        ("DEMO.default.localhost.", "/", Destination(DEMO, None, "/")),
        ("demo-predictor.default.localhost", "/v2", Destination(DEMO, "predictor", "/v2")),
        ("demo-transformer.default.localhost:80", "/", Destination(DEMO, "transformer", "/")),
        ("my-predictor.team-a.localhost", "/", Destination(ODD, None, "/")),
        ("my-predictor-predictor.team-a.localhost", "/", Destination(ODD, "predictor", "/")),
        ("demo.other.localhost", "/", None),
        ("nobody.default.localhost", "/serving/default/demo/v2", None),
        ("a.demo.default.localhost", "/", None),
        ("localhost:8080", "/serving/default/demo/v2/models?q=1", Destination(DEMO, None, "/v2/models?q=1")),
        ("127.0.0.1:8080", "/serving/default/demo", Destination(DEMO, None, "/")),
        ("127.0.0.1:8080", "/serving/default/demo?q=/x", Destination(DEMO, None, "/?q=/x")),
        ("[::1]:8080", "/serving/team-a/my-predictor/", Destination(ODD, None, "/")),
        ("", "/serving/default/demo/a%2Fb", Destination(DEMO, None, "/a%2Fb")),
        ("127.0.0.1", "/serving/default/demo-predictor/", None),
        ("127.0.0.1", "/serving//demo/", None),
        ("127.0.0.1", "/serving/", None),
        ("127.0.0.1", "/metrics", None),
    ],
)
def test_destination(host: str, path: str, expected: Destination | None) -> None:
    assert find_destination(host, path, {DEMO, ODD}.__contains__) == expected


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("/serving/default/nobody/openai/v1/models", "/openai/v1/models"),
        ("/serving/default/nobody", "/"),
        ("/v1/models", "/v1/models"),
    ],
)
def test_path_in_pod_needs_no_endpoint(target: str, seen: str) -> None:
    assert path_in_pod(target) == seen


def proxied(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def test_hop_by_hop_headers_end_here_and_repeated_ones_survive() -> None:
    headers = proxied(
        ("Connection", "keep-alive, X-Mine"),
        ("Keep-Alive", "5"),
        ("X-Mine", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
        ("traceparent", "00-1-2-01"),
    )
    assert list(end_to_end(headers).items()) == [("Set-Cookie", "a"), ("Set-Cookie", "b"), ("traceparent", "00-1-2-01")]


def test_request_id_is_made_only_when_absent() -> None:
    assert request_headers(proxied(), "made")["X-Request-ID"] == "made"
    assert request_headers(proxied(("x-request-id", "mine")), "made").getall("x-request-id") == ["mine"]


def test_expect_and_progress_are_answered_by_the_ingress() -> None:
    assert dict(request_headers(proxied(("Expect", "100-continue"), ("X-Pilotlight-Progress", "1")), "r")) == {
        "x-request-id": "r"
    }


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"x-pilotlight-progress": "1", "accept": "text/event-stream"}, True),
        ({"x-pilotlight-progress": "1", "accept": "application/json"}, False),
        ({"accept": "text/event-stream"}, False),
    ],
)
def test_progress_needs_both_headers(headers: dict[str, str], wanted: bool) -> None:
    assert wants_progress(headers) is wanted


def test_server_timing_is_read_back_and_nonsense_is_left_out() -> None:
    assert format_phase(Phase("activate", 812.345, "predictor")) == 'activate;dur=812.3;desc="predictor"'
    assert parse_phases(['activate;dur=812.3;desc="predictor", queue;dur=1', "cache, x;dur=abc, prefill; dur=5.5"]) == [
        Phase("activate", 812.3, "predictor"),
        Phase("queue", 1.0),
        Phase("prefill", 5.5),
    ]
