"""The gateway's edge under attack: no 5xx, no shape that is not documented, nothing smuggled, others served."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tenants_gateway import COMMON, TenantsGateway, tenants_gateway

pytestmark = [pytest.mark.integration, pytest.mark.timeout(170)]

DEADLINE_S = 15.0
CHAT = json.dumps({"model": COMMON, "messages": [{"role": "user", "content": "hello"}]}).encode()
DOCUMENTED = {200, 204, 400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 422, 429, 431, 501, 505}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TenantsGateway]:
    with tenants_gateway(tmp_path_factory.mktemp("gateway"), 2) as made:
        yield made


def connected(world: TenantsGateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", world.gateway.port), timeout=DEADLINE_S)


def said(world: TenantsGateway, data: bytes, deadline_s: float = DEADLINE_S) -> bytes:
    """All that comes back until the gateway closes, or until it has answered and is silent for a moment."""
    answer = b""
    with connected(world) as client:
        with suppress(ConnectionError):  # it may refuse before it has read all
            client.sendall(data)
        until_s = time.monotonic() + deadline_s
        while time.monotonic() < until_s:
            client.settimeout(0.3 if b"\r\n\r\n" in answer else deadline_s)
            try:
                piece = client.recv(65536)
            except TimeoutError:
                break
            except ConnectionError:
                break
            if not piece:
                break
            answer += piece
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def check(answer: bytes) -> list[int]:
    found = statuses(answer)
    assert set(found) <= DOCUMENTED | {100}, answer[:2000]
    _, _, body = answer.partition(b"\r\n\r\n")
    if found and found[-1] >= 400 and len(found) == 1 and body:
        assert "error" in json.loads(body), body[:500]
        assert b"Traceback" not in body
    return found


def request(world: TenantsGateway, *headers: bytes, line: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    known = [b"host: gateway", b"content-type: application/json", b"authorization: Bearer " + world.keys[0].encode()]
    return b"\r\n".join([line, *known, *headers, b"", b""])


HIDDEN = b'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer KEY\r\ncontent-length: 5\r\n\r\n{"a":'
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)
SMUGGLED: dict[str, tuple[list[bytes], bytes]] = {
    "length and chunked": ([b"content-length: 4", b"transfer-encoding: chunked"], CHUNKS),
    "chunked and length": ([b"transfer-encoding: chunked", b"content-length: %d" % len(CHUNKS)], CHUNKS),
    "two lengths": ([b"content-length: %d" % len(CHAT), b"content-length: 4"], CHAT),
    "a list of lengths": ([b"content-length: 4, %d" % len(CHAT)], CHAT),
    "a signed length": ([b"content-length: +%d" % len(CHAT)], CHAT),
    "a negative length": ([b"content-length: -1"], CHAT),
    "a hexadecimal length": ([b"content-length: 0x%x" % len(CHAT)], CHAT),
    "an endless length": ([b"content-length: " + b"9" * 40], CHAT),
    "a space before the colon": ([b"content-length : 4", b"transfer-encoding: chunked"], CHUNKS),
    "chunked, space before the colon": ([b"transfer-encoding : chunked"], CHUNKS),
    "an unknown coding": ([b"transfer-encoding: chunked, identity"], CHUNKS),
    "a coding with a tab": ([b"transfer-encoding:\tchunked\x0b"], CHUNKS),
    "twice chunked": ([b"transfer-encoding: chunked", b"transfer-encoding: chunked"], CHUNKS),
    "not quite chunked": ([b"transfer-encoding: xchunked"], CHUNKS),
    "a folded header": ([b"transfer-encoding:\r\n chunked"], CHUNKS),
    "a folded length": ([b"x: y\r\n content-length: 4"], CHAT),
    "a bare line feed": ([b"x: y\ncontent-length: %d" % len(CHAT)], CHAT),
    "a bare carriage return": ([b"x: y\rcontent-length: %d" % len(CHAT)], CHAT),
    "a null in a value": ([b"x: a\0b", b"content-length: %d" % len(CHAT)], CHAT),
    "a null in a name": ([b"x\0y: a", b"content-length: %d" % len(CHAT)], CHAT),
    "a chunk that lies": ([b"transfer-encoding: chunked"], b"5\r\n{}\r\n0\r\n\r\n"),
    "a chunk size too large": ([b"transfer-encoding: chunked"], b"F" * 17 + b"\r\n{}\r\n0\r\n\r\n"),
    "a chunk size with a sign": ([b"transfer-encoding: chunked"], b"+2\r\n{}\r\n0\r\n\r\n"),
    "chunks by line feeds": ([b"transfer-encoding: chunked"], b"2\n{}\n0\n\n"),
    "a chunk's extensions": ([b"transfer-encoding: chunked"], b"2;" + b"a" * 200_000 + b"\r\n{}\r\n0\r\n\r\n"),
    "trailers": ([b"transfer-encoding: chunked"], CHUNKS[:-2] + b"content-length: 4\r\nhost: other\r\n\r\n"),
    "two hosts": ([b"host: other", b"content-length: %d" % len(CHAT)], CHAT),
    "an upgrade": ([b"connection: upgrade", b"upgrade: h2c", b"content-length: %d" % len(CHAT)], CHAT),
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_no_request_is_smuggled(world: TenantsGateway, name: str) -> None:
    """What stands behind a doubtful body is never answered as a request of its own after one that was refused."""
    headers, body = SMUGGLED[name]
    before = len(world.hosts)
    hidden = HIDDEN.replace(b"KEY", world.keys[0].encode())
    found = check(said(world, request(world, *headers) + body + hidden))
    assert found, "an answer"
    if found[0] >= 400:
        assert len(world.hosts) == before, "what is refused runs nowhere"
    assert len(world.hosts) <= before + 1


TARGETS = [
    b"//v1/models", b"/v1//models", b"/v1/%2e%2e/metrics", b"/v1/../metrics", b"/v1/models/%00", b"/v1/models/a%2Fb",
    b"/v1/models/%ff%fe", b"/v1/models/%zz", b"/v1/models/" + b"a" * 30_000, b"/v1/models/" + b"a" * 300_000,
    b"http://other.example/v1/models", b"http://other.example", b"https://x:99999/", b"other.example:443", b"*", b"?",
    b"/v1/models?" + b"a=b&" * 8_000, b"/\xc3\xa9", b"/v1/models#x", b"/v2/models/a/versions/%00/infer",
    b"/v2/models/%2e%2e/infer", b"/v1/responses/%00", b"/v1/endpoints/%2f", b"/v1/tenants/%00/keys",
    b"/v1/usage?tenant=%00",
    b"/v1/usage?from=9999999999999999999999-01-01", b"/v1/models;x=y", b"/openai/v1/models/", b"/V1/MODELS",
]  # fmt: skip


@pytest.mark.parametrize(
    "method", [b"GET", b"POST", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"X" * 30]
)
def test_targets_of_every_form(world: TenantsGateway, method: bytes) -> None:
    for target in TARGETS:
        line = b"%b %b HTTP/1.1" % (method, target)
        found = check(said(world, request(world, b"content-length: 2", b"connection: close", line=line) + b"{}"))
        assert found, target[:80]


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/models\r\n\r\n",
        b"GET /v1/models HTTP/0.9\r\n\r\n",
        b"GET /v1/models HTTP/3.0\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"A" * 200_000,
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(20_000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
    ids=["no version", "0.9", "3.0", "no host", "empty lines", "TLS", "no line", "many headers", "a long header"],
)
def test_what_is_no_request(world: TenantsGateway, data: bytes) -> None:
    check(said(world, data))
    assert world.gateway.get("/healthz")[0] == 200


def test_http_2_from_the_first_byte(world: TenantsGateway) -> None:
    """Served where it is gRPC's; whatever frames come, others are served."""
    for frames in (b"", b"\0\0\0\4\0\0\0\0\0", bytes(9), b"\xff" * 9, b"\0\0\x01\1\5\0\0\0\1\x82" * 2000):
        said(world, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames, deadline_s=1.0)
    assert world.gateway.get("/healthz")[0] == 200


def test_slow_clients_are_in_nobodys_way(world: TenantsGateway) -> None:
    with ExitStack() as held:
        slow = [held.enter_context(connected(world)) for _ in range(90)]
        for number, client in enumerate(slow):
            if number % 3 == 0:
                client.sendall(b"GET /v1/mod")
            elif number % 3 == 1:
                client.sendall(request(world, b"content-length: 1000") + b"{")
            elif number < 10:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                client.sendall(request(world, line=b"GET /metrics HTTP/1.1") * 20)  # and reads nothing
        with httpx.Client(base_url=world.gateway.base, timeout=DEADLINE_S) as http:
            headers = {"authorization": f"Bearer {world.keys[0]}", "content-type": "application/json"}
            for _ in range(20):
                for client in slow[:30:3]:
                    client.sendall(b"e")
                assert http.post("/v1/chat/completions", content=CHAT, headers=headers).status_code == 200


WORDS = st.sampled_from(
    [b"content-length", b"transfer-encoding", b"host", b"connection", b"expect", b"x-request-id", b"last-event-id",
     b"content-encoding", b"content-type", b"accept", b"x-pilotlight-priority", b"prefer", b"traceparent", b"origin",
     b"x-api-key", b"x-model-version", b"x-pilotlight-way", b"inference-header-content-length", b"cookie", b"te"]
)  # fmt: skip
VALUES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"0", b"-1", b"1e9", b"chunked", b"close", b"gzip", b"100-continue", b"respond-async", b"*", b"a" * 5000]
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=st.lists(st.tuples(WORDS | st.binary(min_size=1, max_size=12), VALUES), max_size=5),
    body=st.binary(max_size=60),
)
def test_any_headers_at_all(world: TenantsGateway, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    lines = [b"%b: %b" % header for header in headers]
    found = check(said(world, request(world, *lines, b"content-length: %d" % len(body), b"connection: close") + body))
    assert found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["model", "messages", "prompt", "input", "stream", "max_tokens", "n", "stop", "tools", "temperature", "priority",
     "store", "background", "previous_response_id", "stream_options", "user", "metadata", "text_input", "parameters"]
)  # fmt: skip
NAMED_PATHS = (
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/rerank",
     "/v1/tokenize", "/v1/endpoints", "/v1/jobs", "/v1/batches", "/v1/files", f"/v2/models/{COMMON}/infer",
     f"/v2/models/{COMMON}/generate", f"/v2/models/{COMMON}/generate_stream", "/v1/tenants", "/v1/usage", "/v1/routes"]
)  # fmt: skip
PATHS = st.sampled_from(NAMED_PATHS)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=PATHS, fields=st.dictionaries(FIELDS, JSON, max_size=5), named=st.booleans(), whole=JSON | st.none())
def test_any_body_at_all(world: TenantsGateway, path: str, fields: dict[str, Any], named: bool, whole: Any) -> None:
    body = json.dumps(whole if whole is not None else {**fields, **({"model": COMMON} if named else {})}).encode()
    line = b"POST %b HTTP/1.1" % path.encode()
    assert check(said(world, request(world, b"content-length: %d" % len(body), b"connection: close", line=line) + body))


DEEP = b'{"model":"chat","messages":' + b"[" * 5_000 + b"]" * 5_000 + b"}"


@pytest.mark.parametrize("path", NAMED_PATHS)
def test_bodies_beyond_every_bound(world: TenantsGateway, path: str) -> None:
    line = b"POST %b HTTP/1.1" % path.encode()
    long = b'{"model":"' + b"x" * 2_000_000 + b'"}'
    for body in (DEEP, b"[" * 200_000, b'{"a":' * 50_000, long, b"9" * 400_000, b"\xff" * 1000):
        head = request(world, b"content-length: %d" % len(body), b"connection: close", line=line)
        assert check(said(world, head + body))


def test_a_body_that_is_announced_too_long(world: TenantsGateway) -> None:
    found = check(said(world, request(world, b"content-length: 99999999999")))
    assert found == [413]


def test_the_log_has_no_traceback(world: TenantsGateway) -> None:
    """Last: of all of the above."""
    log = world.gateway.log.read_text(errors="replace")
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
