"""Host and path routing, and the header rules of the ingress."""

import pytest

from pilotlight_local.controller.routing_table import find_destination
from pilotlight_local.ingress.pod_exchange import all_timing, answer_headers, end_to_end, request_head, wants_progress
from pilotlight_local.ingress.routes import Destination, EndpointName, needs_model
from pilotlight_wire.hop_headers import Phase, parse_phases
from pilotlight_wire.http_exchange import timing_entry

DEMO = EndpointName("default", "demo")
NOBODY = EndpointName("team-b", "nobody")
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
        ("127.0.0.1", "/serving/team-b/nobody/v2", Destination(NOBODY, None, "/v2")),
        (
            "127.0.0.1",
            "/serving/default/demo-predictor/",
            Destination(EndpointName("default", "demo-predictor"), None, "/"),
        ),
        ("127.0.0.1", "/metrics", None),
    ],
)
def test_destination(host: str, path: str, expected: Destination | None) -> None:
    assert find_destination(host, path, {DEMO, ODD}.__contains__) == expected


def test_hop_by_hop_headers_end_here_and_repeated_ones_survive() -> None:
    headers = [
        (b"Connection", b"keep-alive, X-Mine"),
        (b"Keep-Alive", b"5"),
        (b"X-Mine", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Set-Cookie", b"a"),
        (b"Set-Cookie", b"b"),
        (b"traceparent", b"00-1-2-01"),
    ]
    assert end_to_end(headers) == [(b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"), (b"traceparent", b"00-1-2-01")]


def test_the_pod_gets_a_request_id_made_only_when_absent() -> None:
    assert request_head("GET", b"/v2?x=1", [], "made") == (b"GET /v2?x=1 HTTP/1.1\r\nx-request-id: made\r\n\r\n", False)
    head, _ = request_head("GET", b"/", [(b"x-request-id", b"mine")], "made")
    assert head.count(b"x-request-id") == 1
    assert b"mine" in head


def test_expect_and_progress_are_answered_by_the_ingress() -> None:
    head, _ = request_head("GET", b"/", [(b"expect", b"100-continue"), (b"x-pilotlight-progress", b"1")], "r")
    assert head == b"GET / HTTP/1.1\r\nx-request-id: r\r\n\r\n"


def test_a_body_without_a_length_goes_on_in_chunks() -> None:
    head, chunked = request_head("POST", b"/", [(b"transfer-encoding", b"chunked"), (b"content-length", b"5")], "r")
    assert chunked
    assert b"transfer-encoding: chunked" in head
    assert b"content-length" not in head


def test_the_answer_has_this_hops_phase_first_and_is_dated_once() -> None:
    pods = [(b"Date", b"then"), (b"Server-Timing", b"queue;dur=1"), (b"Server", b"uvicorn"), (b"X-Pod", b"a")]
    headers = answer_headers(pods, "r", all_timing(timing_entry("activate", 2.0, "predictor"), pods))
    assert dict(headers) == {
        b"Server": b"uvicorn",
        b"X-Pod": b"a",
        b"server-timing": b'activate;dur=2.000;desc="predictor", queue;dur=1',
        b"x-request-id": b"r",
    }


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("POST", "/openai/v1/chat/completions", True),
        ("POST", "/v1/completions/", True),
        ("POST", "/v2/models/demo/generate_stream?x=1", True),
        ("POST", "/v2/models/demo/versions/1/infer", True),
        ("POST", "/v1/models/demo:predict", True),
        ("POST", "/inference.GRPCInferenceService/ModelStreamInfer", True),
        ("POST", "/inference.GRPCInferenceService/ModelMetadata", False),
        ("GET", "/openai/v1/models", False),
        ("GET", "/metrics", False),
        ("HEAD", "/v2/health/ready", False),
        ("OPTIONS", "/openai/v1/chat/completions", False),
        ("GET", "/v2/models/demo/infer", False),
        ("POST", "/nothing", False),
        ("POST", "/v2/repository/index", False),
    ],
)
def test_what_needs_the_model_behind_a_transformer(method: str, path: str, needed: bool) -> None:
    assert needs_model(method, path) is needed


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
    said = timing_entry("activate", 812.345, "predictor")
    assert said == 'activate;dur=812.345;desc="predictor"'
    assert parse_phases(f"{said}, queue;dur=1,cache, x;dur=abc, prefill; dur=5.5") == [
        Phase("activate", 812.345, "predictor"),
        Phase("queue", 1.0),
        Phase("prefill", 5.5),
    ]
    assert parse_phases("") == []
