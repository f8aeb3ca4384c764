"""Whole answers of pods, over connections whose other end is a script: what is whole, and what one who leaves took."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest
from endpoint_entries import entry

from pilotlight_gateway.pods_way.pods_way import PodsWay
from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place
from pilotlight_protocol.errors import Unavailable
from pilotlight_wire.connection_pool import ConnectionPool
from pilotlight_wire.handlers import Reply, RequestContext
from pilotlight_wire.http_connection import HttpConnection

CHAT = "/v1/chat/completions"
CLOSED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
WHOLE = b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}'


class ScriptedPods:
    """Each request gets the next answer, after which the connection is closed; with none left, silence."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked = asyncio.Event()
        self.requests = 0
        self.heads: list[str] = []


class _Transport:
    def __init__(self, pods: ScriptedPods, connection: HttpConnection) -> None:
        self._pods = pods
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._pods.requests += 1
        self._pods.heads.append(data.partition(b"\r\n\r\n")[0].decode())
        self._pods.asked.set()
        if self._pods.answers:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._connection.data_received, self._pods.answers.pop(0))
            loop.call_soon(self._connection.connection_lost, None)

    def abort(self) -> None:
        return


def way_to(pods: ScriptedPods, monkeypatch: pytest.MonkeyPatch) -> PodsWay:
    async def opened(pool: ConnectionPool) -> HttpConnection:
        connection = HttpConnection(pool._silence)
        connection.connection_made(cast(asyncio.BaseTransport, _Transport(pods, connection)))
        return connection

    monkeypatch.setattr(ConnectionPool, "_open", opened)
    return PodsWay(jitter=lambda: -1.0)  # which makes every wait before a retry none


def request(path: str = CHAT, pods_ready: int = 1) -> GatewayRequest:
    place = Place("POST", path, path, path, path, None)
    context = RequestContext("r", {}, b'{"model":"chat"}')
    return GatewayRequest(
        context, place, Asked("chat"), Caller("team"), entry("chat", pods_ready=pods_ready, text=None), "chat"
    )


@pytest.mark.parametrize("cut", [0, 1, len(WHOLE) - 1])
async def test_an_answer_that_may_be_cut_is_whole_json_or_asked_for_again(
    cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods, asks = ScriptedPods(CLOSED + WHOLE[:cut], CLOSED + WHOLE), request()
    answer = await way_to(pods, monkeypatch).answer(asks)
    assert isinstance(answer, Reply)
    assert (answer.body, pods.requests) == (WHOLE, 2)
    assert (asks.usage.total, asks.usage.uncounted) == (7, False)


async def test_pods_are_told_what_is_left_of_the_time_at_each_try(monkeypatch: pytest.MonkeyPatch) -> None:
    pods, asks = ScriptedPods(CLOSED, CLOSED + WHOLE), request()
    asks.context.headers, asks.context.ends_s = {"x-request-timeout": "9"}, time.monotonic() + 4
    assert isinstance(await way_to(pods, monkeypatch).answer(asks), Reply)
    said = [line for head in pods.heads for line in head.split("\r\n") if "timeout" in line]
    assert [line.partition(": ")[0] for line in said] == ["x-request-timeout"] * 2
    first, second = (float(line.partition(": ")[2]) for line in said)
    assert 4 >= first >= second > 1


async def test_nobody_is_told_of_a_time_that_nobody_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pods, asks = ScriptedPods(CLOSED + WHOLE), request()
    asks.context.headers = {"x-request-timeout": "soon"}
    await way_to(pods, monkeypatch).answer(asks)
    assert "timeout" not in pods.heads[0]


async def test_one_that_comes_cut_again_and_again_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = ScriptedPods(*[CLOSED + WHOLE[:9]] * 9)
    asks = request()
    with pytest.raises(Unavailable):
        await way_to(pods, monkeypatch).answer(asks)
    assert 1 < pods.requests < 9
    assert not asks.usage.uncounted


async def test_what_may_do_harm_twice_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = ScriptedPods(*[CLOSED + WHOLE[:9]] * 9)
    with pytest.raises(Unavailable):
        await way_to(pods, monkeypatch).answer(request("/v2/repository/models/chat/load"))
    assert pods.requests == 1


async def test_the_nan_of_pythons_servers_is_no_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = await way_to(ScriptedPods(CLOSED + b'{"score":NaN}'), monkeypatch).answer(request())
    assert isinstance(answer, Reply)
    assert answer.body == b'{"score":NaN}'


@pytest.mark.parametrize("head", [CLOSED.replace(b"200", b"400"), CLOSED.replace(b"application/json", b"text/plain")])
async def test_what_is_no_json_and_what_is_refused_pass_as_they_are(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await way_to(ScriptedPods(head + b"no"), monkeypatch).answer(request())
    assert isinstance(answer, Reply)
    assert answer.body == b"no"


@pytest.mark.parametrize(
    ("path", "pods_ready", "uncounted"), [(CHAT, 1, True), (CHAT, 0, False), ("/tokenize", 1, False)]
)
async def test_who_leaves_pods_that_work_for_it_has_had_their_work(
    path: str, pods_ready: int, uncounted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods, asks = ScriptedPods(), request(path, pods_ready)
    answering = asyncio.create_task(way_to(pods, monkeypatch).answer(asks))
    await pods.asked.wait()
    answering.cancel()
    await asyncio.wait({answering})
    assert asks.usage.uncounted == uncounted
