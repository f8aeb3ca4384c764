"""An identity provider on a socket: what a gateway process takes of its tokens, and what is read of its keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
import yaml
from component_process import running
from endpoint_entries import entry, whole
from identity_provider import AUDIENCE, ISSUER, Key
from server_ports import free_port
from tenant_world import TenantWorld
from waiting import until_async

from pilotlight_gateway.tenants.jwks_fetch import MAX_BYTES, fetch_keys
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.errors import Unavailable

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


class Served:
    """Answers every request with `answer`, in pieces `pause_s` apart. `paths`: what it was asked for."""

    def __init__(self, answer: bytes = b"", pause_s: float = 0.0) -> None:
        self.answer = answer
        self.pause_s = pause_s
        self.paths: list[str] = []
        self.url = ""
        self._handling: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Served]:
        server = await asyncio.start_server(self._start, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
        try:
            yield self
        finally:
            server.close()
            for handling in list(self._handling):
                handling.cancel()
            await asyncio.gather(*self._handling, return_exceptions=True)
            await server.wait_closed()

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling = asyncio.create_task(self._serve(reader, writer))
        self._handling.add(handling)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            self.paths.append(head.split()[1].decode())
            for piece in self.answer.split(b"|") if self.pause_s else [self.answer]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(self.pause_s)


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + body


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (Served(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/secret\r\ncontent-length: 0\r\n\r\n"), "302"),
        (Served(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"), "500"),
        (Served(ok(b" " * (MAX_BYTES + 1))), "larger"),
        (Served(ok(b"|".join([b" "] * 200)), pause_s=0.05), "within"),
        (Served(b"nonsense"), "cannot be read"),
        (Served(b""), "cannot be read"),
    ],
    ids=["redirect", "failure", "large", "slow", "nonsense", "closed"],
)
async def test_keys_that_cannot_be_had_are_so_within_bounds(served: Served, said: str) -> None:
    async with served.serving():
        with pytest.raises(Unavailable, match=said):
            await fetch_keys(served.url, deadline_s=1.0)
    assert served.paths == ["/keys"]


async def test_a_gateway_takes_its_tokens_and_follows_its_keys_and_its_configuration(tmp_path: Path) -> None:
    first, second = Key("one"), Key("two", "ES256")
    state = tmp_path / "state"
    world = TenantWorld(state)
    world.tenant("acme", TenantSettings())
    world.store.close()
    endpoints, config = tmp_path / "endpoints.json", tmp_path / "gateway.yaml"
    endpoints.write_bytes(msgspec.json.encode(whole(entry("mine", "acme"), entry("theirs", "beta"))))
    async with Served(ok(json.dumps({"keys": [first.jwk(), second.jwk()]}).encode())).serving() as served:
        provider = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": served.url, "tenants": {"4711": "acme"}}
        config.write_text(yaml.safe_dump({"identity_providers": [provider]}))
        claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 600, "tenant": "4711", "sub": "ann"}
        port = free_port()
        words = ["--host", "127.0.0.1", "--port", str(port), "--endpoints", str(endpoints), "--config", str(config)]
        argv = ["-m", "pilotlight_gateway", *words, "--state_dir", str(state)]
        with running(argv, port, tmp_path / "log") as gateway:
            async with aiohttp.ClientSession() as session:

                async def models(token: str) -> tuple[int, list[str]]:
                    headers = {"authorization": f"Bearer {token}"}
                    async with session.get(f"{gateway.base}/v1/models", headers=headers) as answer:
                        told = await answer.json()
                        return answer.status, [model["id"] for model in told.get("data", [])]

                for key in (first, second):
                    assert await models(key.sign(claims)) == (200, ["mine"])
                assert (await models(first.sign({**claims, "tenant": "beta"})))[0] == 403
                assert (await models(Key("one").sign(claims)))[0] == 401
                assert served.paths == ["/keys"]
                token = first.sign(claims)
                assert (await models(token))[0] == 200
                config.write_text("{}")
                await until_async(lambda: models(token), holds=lambda told: told[0] == 401)
            log = (tmp_path / "log").read_text()
            assert token not in log
            assert token.split(".")[1] not in log
