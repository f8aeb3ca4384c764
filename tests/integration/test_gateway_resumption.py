"""Streams whose pods die or stall go on with the same bytes, on every surface; no vLLM, but a real transformer.

The predictor's engine counts up from the prompt's last token, so a rest asked for by tokens is the rest.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from component_process import RunningComponent, running
from endpoint_entries import LEASE, entry, whole
from fault_proxy import FaultProxy
from server_ports import free_port
from transformer_process import transformer

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.pods_way.pods_way import PodsWay
from pilotlight_gateway.pods_way.replica_set import Timing
from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place
from pilotlight_gateway.resilience.patience import PatienceSettings
from pilotlight_protocol.endpoint_directory import PodsAddress
from pilotlight_protocol.errors import DeadlineExceeded, PilotlightError, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.poured_events import pour

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SCRIPTED = str(Path(__file__).with_name("scripted_predictor.py"))
TOKENS = 40
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": TOKENS, "temperature": 0}
LIMIT = {"model": "demo", "max_tokens": TOKENS, "temperature": 0, "stream": True}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    "completions": ("/v1/completions", {**LIMIT, "prompt": "Hi", "logprobs": 1}),
    "messages": ("/v1/messages", {**LIMIT, "messages": CHAT["messages"]}),
    "responses": (
        "/v1/responses",
        {"model": "demo", "input": "Hi", "max_output_tokens": TOKENS, "temperature": 0, "stream": True},
    ),
    "generate": (
        "/v2/models/demo/generate_stream",
        {"text_input": "Hi", "parameters": {"max_tokens": TOKENS, "temperature": 0}},
    ),
}


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComponent]:
    port, folder = free_port(), tmp_path_factory.mktemp("pods")
    argv = [SCRIPTED, "--model_name=demo", f"--http_port={port}", "--step_s=0.005"]
    with (
        running(argv, port, folder / "predictor.log", model_name="demo"),
        transformer(f"127.0.0.1:{port}", folder / "transformer.log") as component,
    ):
        yield component


class Front:
    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        patience = PatienceSettings(floor_s=0.5, ceiling_s=2.0)
        self.way = PodsWay(Timing(connect_s=2.0), patience, jitter=lambda: 0.0)
        self._entry = entry(
            "demo", pods=PodsAddress(proxy.url, "demo.team.localhost"), pods_ready=1, timeout_s=30.0, lease=None
        )

    async def ask(self, kind: str, **changes: Any) -> Any:
        path, body = ASKED[kind]
        body = {**body, **changes}
        content = json.dumps(body).encode()
        context = RequestContext("r1", {"content-type": "application/json"}, content)
        component = path.replace("/demo/", "/m/")
        place = Place("POST", path, path, component, path, "demo" if "models" in path else None)
        asked = Asked("demo", stream=body.get("stream"))
        self.request = GatewayRequest(context, place, asked, Caller("team"), self._entry, "demo")
        return await self.way.answer(self.request)

    async def said(self, kind: str, **changes: Any) -> bytes:
        result = await self.ask(kind, **changes)
        assert isinstance(result, Stream)
        self.pieces: list[bytes] = []
        try:
            self.pieces.append(await anext(result.events))
            await pour(result.events, self)
        finally:
            await result.events.aclose()  # type: ignore[attr-defined]
        return b"".join(self.pieces)

    # A sink of what is poured
    is_full = False

    def write(self, piece: bytes) -> None:
        self.pieces.append(piece)

    async def drained(self) -> None:
        return


@pytest_asyncio.fixture
async def front(pods: RunningComponent) -> AsyncIterator[Front]:
    async with contextlib.AsyncExitStack() as stack:
        made = Front(await stack.enter_async_context(FaultProxy(pods.port)))
        stack.push_async_callback(made.way.close)
        yield made


def nameless(stream: bytes) -> bytes:
    """Without times, random ids, and how the text was cut into events."""
    stream = re.sub(rb'"(created|created_at|completed_at|sequence_number)":\d+|"text_output":"[^"]*"', b"", stream)
    return re.sub(rb"(resp|msg|rs|fc|call|toolu)_[0-9a-f]+", b"", stream)


@pytest.mark.parametrize("fault", ["dies 10", "stalls 10", "cut 10", "dies 1", "dies 0", "dies 40"])
@pytest.mark.parametrize("kind", ASKED)
async def test_a_stream_goes_on_with_the_same_bytes(front: Front, kind: str, fault: str) -> None:
    undisturbed = await front.said(kind)
    usage = front.request.usage
    assert usage.output_tokens == TOKENS
    assert usage.prompt_tokens > 0
    front.proxy.requests.clear()
    front.proxy.script = [fault]
    again = await front.said(kind)
    assert said_in(again) == said_in(undisturbed)
    assert front.request.usage == usage
    assert len(front.proxy.requests) == 2 or fault == "dies 40"  # there may be fewer events than tokens
    assert len(set(re.findall(rb'"created(?:_at)?":(\d+)', again))) <= 1


def said_in(stream: bytes) -> tuple[str, bytes, int]:
    """Words, first and last event, and how many events there are of kinds that come once."""
    events = nameless(stream).split(b"\n\n")
    assert not events[-1]
    assert all(event.count(b"data: ") == 1 for event in events[:-1])
    once = stream.count(b'"role"') + stream.count(b"event: message_") + stream.count(b"event: response.c")
    return text_of(stream), events[-2], once


def text_of(stream: bytes) -> str:
    text = ""
    for line in stream.split(b"\n"):
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            choice = (event.get("choices") or [{}])[0]
            delta = event.get("delta", "") if event.get("type") == "response.output_text.delta" else ""
            text += choice.get("delta", {}).get("content") or choice.get("text") or event.get("text_output") or delta
            if event.get("type") == "content_block_delta":
                text += event["delta"].get("text", "")
    return text


async def test_a_stream_that_breaks_again_and_again(front: Front) -> None:
    undisturbed = await front.said("chat")
    front.proxy.script = ["dies 10", "stalls 10", "status 503", "dies 10"]
    assert said_in(await front.said("chat")) == said_in(undisturbed)
    front.proxy.script = ["dies 5"] * 9
    with pytest.raises(Unavailable):
        await front.said("chat")
    assert text_of(undisturbed).startswith(text_of(b"".join(front.pieces)))


@pytest.mark.parametrize("changes", [{"temperature": 1, "seed": 7}, {"presence_penalty": 1.0}])
async def test_what_cannot_go_on_ends_with_a_clear_error(front: Front, changes: dict[str, Any]) -> None:
    front.proxy.script = ["dies 10"]
    with pytest.raises(Unavailable, match="cannot go on elsewhere"):
        await front.said("chat", **changes)
    assert 0 < front.request.usage.output_tokens < TOKENS


class NoEngine:
    """A short way that has none."""

    def __init__(self) -> None:
        self.asked: list[GatewayRequest] = []

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        self.asked.append(request)
        raise Unavailable("no engine")

    async def close(self) -> None:
        return


async def test_what_does_not_go_on_here_is_asked_of_pods(front: Front) -> None:
    undisturbed = await front.said("chat")
    short = NoEngine()
    way = front.way = PodsWay(Timing(connect_s=2.0), jitter=lambda: 0.0, short=short)
    front._entry = msgspec.structs.replace(front._entry, lease=LEASE)
    front.proxy.script = ["dies 10"]
    assert said_in(await front.said("chat")) == said_in(undisturbed)
    assert [request.entry.name for request in short.asked] == ["demo"]
    assert front.request.usage.output_tokens == TOKENS
    await way.close()


@pytest.mark.parametrize("changes", [{"is_split": True}, {"spec_digest": "another"}])
async def test_another_revision_does_not_go_on_with_what_one_began(front: Front, changes: dict[str, Any]) -> None:
    table = EndpointTable()
    table.apply(whole(front._entry))
    way = front.way = PodsWay(Timing(connect_s=2.0), jitter=lambda: 0.0, table=table)
    front.proxy.script = ["dies 10"]
    if "is_split" in changes:
        front._entry = msgspec.structs.replace(front._entry, **changes)
    else:
        table.apply(whole(msgspec.structs.replace(front._entry, **changes)))
    with pytest.raises(Unavailable, match="another one by now"):
        await front.said("chat")
    await way.close()


async def test_an_endpoint_without_text_of_ours_is_told_nothing_and_ends_with_an_error(front: Front) -> None:
    front._entry = entry("demo", pods=front._entry.pods, pods_ready=1, timeout_s=30.0, lease=None, text=None)
    undisturbed = await front.said("chat")
    assert b"x-pilotlight-tell" not in front.proxy.requests[0]
    for fault, error in (("dies 10", Unavailable), ("cut 10", Unavailable), ("stalls 10", DeadlineExceeded)):
        front.proxy.script = [fault]
        expected: type[PilotlightError] = error
        with pytest.raises(expected):
            await front.said("chat")
        assert text_of(undisturbed).startswith(text_of(b"".join(front.pieces)))
    front.proxy.script = ["dies 0"]
    assert said_in(await front.said("chat")) == said_in(undisturbed)


async def test_a_stream_that_never_breaks_shows_nothing_of_what_is_told(front: Front) -> None:
    undisturbed = await front.said("chat")
    assert b"x-pilotlight-tell" in front.proxy.requests[0]
    assert b":~" not in undisturbed
    assert undisturbed.endswith(b"data: [DONE]\n\n")
