"""A gateway is killed while it streams, and another one has the exact rest: two processes, a real redis-server, a real
transformer over a scripted engine that counts up from the prompt's last token, so that a rest is the rest.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from component_process import RunningComponent, running
from endpoint_entries import entry, whole
from redis_server import RedisServer
from server_ports import free_port
from tenant_world import TenantWorld
from transformer_process import transformer
from waiting import until, until_async

from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_gateway.limits.redis_accounts import account_key
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.endpoint_directory import PodsAddress

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SCRIPTED = str(Path(__file__).with_name("scripted_predictor.py"))
TOKENS = 200
SEEN = 60
HI: dict[str, Any] = {"prompt": "Hi", "max_tokens": TOKENS, "temperature": 0}
Event = tuple[str, str]
TENANTS = {"team": LimitTerms(tokens_per_day=100_000, concurrency=1), "other": LimitTerms()}


@dataclass(frozen=True)
class Pods:
    transformer: RunningComponent
    predictor: RunningComponent

    def idle(self) -> bool:
        return "pilotlight_requests_in_flight 0.0" in self.predictor.get("/metrics")[1].decode()


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    port, folder = free_port(), tmp_path_factory.mktemp("pods")
    argv = [SCRIPTED, "--model_name=demo", f"--http_port={port}", "--step_s=0.01"]
    with (
        running(argv, port, folder / "predictor.log", model_name="demo") as predictor,
        transformer(f"127.0.0.1:{port}", folder / "transformer.log") as component,
    ):
        yield Pods(component, predictor)


class Gateways:
    """`body`: of a request, beside its model. Its path is `path`."""

    def __init__(self, folder: Path, pods: Pods, redis: RedisServer) -> None:
        self.folder = folder
        self.keys: dict[str, str] = {}
        self.redis = redis
        self._state = folder / "state"
        self._state.mkdir()
        world = TenantWorld(self._state)
        for tenant, terms in TENANTS.items():
            world.tenant(tenant, TenantSettings(limits=terms, namespaces=("shared",)))
            self.keys[tenant] = world.key(tenant).shown
        world.store.close()
        self._endpoints = folder / "endpoints.json"
        address = PodsAddress(f"http://127.0.0.1:{pods.transformer.port}", "demo.shared.localhost")
        made = entry("demo", "shared", pods=address, pods_ready=1, front="pods", lease=None, timeout_s=30.0)
        self._endpoints.write_bytes(msgspec.json.encode(whole(made)))

    @contextlib.contextmanager
    def one(self, name: str, *more: str) -> Iterator[RunningComponent]:
        port = free_port()
        words = ["--host", "127.0.0.1", "--port", str(port), "--endpoints", str(self._endpoints), *more]
        argv = ["-m", "pilotlight_gateway", *words, "--state_dir", str(self._state)]
        environment = {"PILOTLIGHT_REDIS_URL": self.redis.url}
        with running(argv, port, self.folder / f"{name}.log", environment=environment) as gateway:
            # On a busy machine the first call of Redis may take longer than anybody waits for it.
            until(lambda: self.asked(gateway, f"first-{name}", tenant="other", prompt="Hi", max_tokens=1)[0] == 200)
            yield gateway

    async def taken(self) -> tuple[int, int]:
        """Of the tenant, by its limits: requests and tokens."""
        account = await self.redis.command("HGETALL", account_key("team"))
        sums = {kind: sum(int(amount) for name, amount in account.items() if name[:1] == kind) for kind in (b"q", b"d")}
        return sums[b"q"], sums[b"d"]

    def prompt_tokens(self, gateway: RunningComponent) -> int:
        body = {"model": "demo", "prompt": HI["prompt"]}
        headers = {"authorization": f"Bearer {self.keys['other']}"}
        return int(httpx.post(f"{gateway.base}/tokenize", json=body, headers=headers, timeout=10).json()["count"])

    async def kept_of_running(self) -> list[bytes]:
        found: list[bytes] = await self.redis.command("KEYS", "pilotlight:once:*:r")
        return found

    def billed(self, gateway: RunningComponent) -> int:
        """Tokens of the tenant, by its usage."""
        headers = {"authorization": f"Bearer {self.keys['team']}"}
        total = httpx.get(f"{gateway.base}/v1/usage", headers=headers, timeout=10).json()["total"]
        return int(total["prompt_tokens"]) + int(total["output_tokens"])

    @contextlib.contextmanager
    def stream(
        self,
        gateway: RunningComponent,
        name: str,
        last: str | None = None,
        tenant: str = "team",
        path: str = "/v1/completions",
        **changes: Any,
    ) -> Iterator[Events]:
        headers = {"authorization": f"Bearer {self.keys[tenant]}", "x-request-id": name}
        if last is not None:
            headers["last-event-id"] = last
        body = changes or HI
        if not path.endswith("/generate_stream"):
            body = {"model": "demo", "stream": True, **body}
        with (
            httpx.Client(timeout=60) as client,
            client.stream("POST", f"{gateway.base}{path}", json=body, headers=headers) as response,
        ):
            yield Events(response)

    def asked(self, gateway: RunningComponent, name: str, last: str | None = None, **changes: Any) -> tuple[int, str]:
        with self.stream(gateway, name, last, **changes) as events:
            return events.status, events.response.read().decode()


class Events:
    """What each is called, and its data."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.status = response.status_code
        self._text = ""
        self._pieces = response.iter_text()

    def read(self, most: int | None = None) -> list[Event]:
        found: list[Event] = []
        while most is None or len(found) < most:
            event, ended, rest = self._text.partition("\n\n")
            if ended:
                self._text = rest
                found.append(told(event))
                continue
            try:
                self._text += next(self._pieces)
            except (StopIteration, httpx.TransportError):
                break
        return found


def told(event: str) -> Event:
    """What it is called, "" where it is not kept, and its data."""
    named = re.search(r"^id: (.+)$", event, re.MULTILINE)
    return "" if named is None else named[1], event.partition("data: ")[2]


def text(events: list[Event]) -> str:
    said = [json.loads(data) for _, data in events if data.startswith("{")]
    assert all("error" not in each for each in said), said[-1]
    return "".join(choice["text"] for each in said for choice in each["choices"])


@pytest.fixture
def kept_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.end()


@pytest.fixture
def gateways(tmp_path: Path, pods: Pods, kept_redis: RedisServer) -> Gateways:
    return Gateways(tmp_path, pods, kept_redis)


async def test_another_gateway_has_the_exact_rest_of_a_killed_ones_stream(gateways: Gateways, pods: Pods) -> None:
    with gateways.one("a") as first, gateways.one("b") as second:
        with gateways.stream(second, "whole") as events:
            undisturbed = events.read()
        assert len(undisturbed) > TOKENS / 2
        for last in ("0", undisturbed[SEEN][0], undisturbed[-1][0]):
            with gateways.stream(first, "whole", last) as events:
                assert events.read() == undisturbed[int(last) :]
        with gateways.stream(first, "cut") as events:
            seen = events.read(SEEN)
            first.process.kill()
            seen += events.read()
        assert SEEN <= len(seen) < len(undisturbed) - 10
        until(pods.idle)
        assert gateways.asked(second, "cut", seen[-1][0], prompt="another")[0] == 409
        assert gateways.asked(second, "cut", seen[-1][0], tenant="other")[0] == 409
        with gateways.stream(second, "cut", seen[-1][0]) as events:
            rest = events.read()
        assert text(seen + rest) == text(undisturbed)
        # It is whole there now, as if it had been made there.
        with gateways.stream(second, "cut", "0") as events:
            assert events.read() == seen + rest
        tokens = 2 * (gateways.prompt_tokens(second) + TOKENS)
        assert await until_async(gateways.taken, holds=lambda taken: taken[1] == tokens) == (2, tokens)
        until(lambda: gateways.billed(second), what="billed once", holds=lambda billed: billed == tokens)
        assert await gateways.kept_of_running() == []


async def test_a_redis_that_is_started_again_loses_no_event_of_a_stream(gateways: Gateways) -> None:
    """Nor does who reads it at another gateway meanwhile."""
    with gateways.one("a") as first, gateways.one("b") as second:
        with gateways.stream(second, "whole") as events:
            undisturbed = events.read()
        with gateways.stream(first, "cut") as events, gateways.stream(second, "cut") as joining:
            seen, joined = events.read(SEEN), joining.read(SEEN // 2)
            gateways.redis.kill()
            seen += events.read(SEEN)
            gateways.redis.start()
            seen += events.read(SEEN // 2)
            first.process.kill()
            seen += events.read()
            joined += joining.read()
        with gateways.stream(second, "cut", seen[-1][0]) as events:
            assert seen + events.read() == joined
        assert text(joined) == text(undisturbed)


async def test_one_that_stood_still_goes_on_with_nothing_that_another_has_taken(gateways: Gateways, pods: Pods) -> None:
    with gateways.one("a") as first, gateways.one("b") as second:
        with gateways.stream(second, "whole") as events:
            undisturbed = events.read()
        with gateways.stream(first, "cut") as events:
            seen = events.read(SEEN)
            first.process.send_signal(signal.SIGSTOP)
            try:
                with gateways.stream(second, "cut", seen[-1][0]) as resumed:
                    rest = resumed.read(SEEN)
                    first.process.send_signal(signal.SIGCONT)
                    more = events.read()
                    rest += resumed.read()
            finally:
                first.process.send_signal(signal.SIGCONT)
        assert text(seen + rest) == text(undisturbed)
        # What it had sent before it stood still, and then that it is not its any more.
        assert "another gateway goes on" in more[-1][1]
        assert not more[-1][0]
        assert [*seen, *more[:-1]] == (seen + rest)[: len(seen) + len(more) - 1]
        until(pods.idle)
        tokens = 2 * (gateways.prompt_tokens(second) + TOKENS)
        assert await until_async(gateways.taken, holds=lambda taken: taken[1] == tokens) == (2, tokens)
        for gateway in (first, second):
            until(lambda: gateways.billed(gateway), what="billed once", holds=lambda billed: billed == tokens)  # noqa: B023


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": TOKENS}),
    "messages": ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": TOKENS}),
    "responses": ("/v1/responses", {"input": "Hi", "max_output_tokens": TOKENS}),
    "generate": ("/v2/models/demo/generate_stream", {"text_input": "Hi", "parameters": {"max_tokens": TOKENS}}),
}


def test_every_surface_goes_on_at_once_where_its_gateway_was_ended(gateways: Gateways) -> None:
    """An ended gateway leaves its streams; the same random ids and times are in the rest."""
    with gateways.one("a", "--drain_timeout_s=0.2") as first, gateways.one("b") as second:
        with contextlib.ExitStack() as stack:
            streams = {
                kind: stack.enter_context(gateways.stream(first, kind, tenant="other", path=path, **body))
                for kind, (path, body) in KINDS.items()
            }
            seen = {kind: events.read(SEEN // 4) for kind, events in streams.items()}
            first.process.terminate()
            for kind, events in streams.items():
                seen[kind] += events.read()
        for kind, (path, body) in KINDS.items():
            shown = [event for event in seen[kind] if event[0]]
            assert shown, (kind, streams[kind].status, seen[kind])
            with gateways.stream(second, kind, shown[-1][0], tenant="other", path=path, **body) as events:
                rest = events.read()
            assert rest, (kind, events.status, seen[kind][-2:])
            assert all(event_id for event_id, _ in rest), (kind, rest[-2:], seen[kind][-2:])
            with gateways.stream(second, kind, "0", tenant="other", path=path, **body) as events:
                assert events.read() == shown + rest, kind
            ids = [event_id.partition(".") for event_id, _ in shown + rest]
            assert [int(number) for number, *_ in ids] == list(range(1, len(ids) + 1))
            # Those behind the cut are another one's, and say so.
            assert [of for *_, of in ids] == sorted(of for *_, of in ids)
            assert ids[-1][2] == "1"
            with gateways.stream(second, f"{kind}-whole", tenant="other", path=path, **body) as events:
                undisturbed = tokens_in(events.read())
            assert len(undisturbed) > TOKENS
            assert tokens_in(shown + rest) == undisturbed, kind


async def test_what_cannot_go_on_exactly_says_so(gateways: Gateways) -> None:
    body = {**HI, "temperature": 1.0, "seed": 7}
    with gateways.one("a") as first, gateways.one("b") as second:
        with gateways.stream(first, "cut", tenant="other", **body) as events:
            seen = events.read(SEEN)
            first.process.kill()
            seen += events.read()
        with gateways.stream(second, "cut", seen[-1][0], tenant="other", **body) as events:
            assert "a seed cannot go on" in events.response.read().decode()
        assert gateways.asked(second, "cut", seen[-1][0], tenant="other", **body)[0] == 409


def tokens_in(events: list[Event]) -> str:
    """Its text, as it came, on any surface."""
    return "".join(_said(json.loads(data)) for _, data in events if data.startswith("{"))


def _said(event: dict[str, Any]) -> str:
    delta = event.get("delta") or event.get("text_output") or ""
    for choice in event.get("choices", ()):
        delta = choice["delta"].get("content") or ""
    return delta if isinstance(delta, str) else str(delta.get("text", ""))
