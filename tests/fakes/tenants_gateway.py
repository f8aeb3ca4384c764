"""A gateway as a process before many tenants' endpoints, all of them one canned server that says which one was asked.

Each tenant has an endpoint of its own name and one whose name all tenants have, each in its own namespace.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
from component_process import RunningComponent, running
from endpoint_entries import entry, whole
from server_ports import free_port
from tenant_world import TenantWorld

from pilotlight_protocol.endpoint_directory import PodsAddress

COMMON = "chat"


def tenant(number: int) -> str:
    return f"tenant{number:02d}"


def own_model(number: int) -> str:
    return f"model{number:02d}"


def host_of(name: str, number: int) -> str:
    return f"{name}.{tenant(number)}.localhost"


@dataclass(frozen=True)
class TenantsGateway:
    """`keys`: of each tenant, for all its endpoints; `narrow_keys`: for its own model alone. `hosts`: whom the canned
    server was asked as, in their order."""

    gateway: RunningComponent
    metrics_key: str
    keys: list[str]
    narrow_keys: list[str]
    hosts: list[str]


class _Endpoints(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hosts: list[str]

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        raw = self.rfile.read(length)
        host = self.headers["host"]
        self.hosts.append(host)
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            if json.loads(raw).get("stream"):
                self._send(
                    self._event({"content": host}, None) + self._event({}, "stop") + b"data: [DONE]\n\n",
                    "text/event-stream",
                )
                return
        message = {"role": "assistant", "content": host}
        choice = {"index": 0, "message": message, "text": host, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        self._send(json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode(), "application/json")

    do_GET = do_POST = _answer

    def _event(self, delta: dict[str, str], finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return b"data: %b\n\n" % json.dumps({"id": "x", "choices": [choice]}).encode()

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client has gone
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextlib.contextmanager
def canned_endpoints() -> Iterator[tuple[str, list[str]]]:
    """The URL of a server that answers every request with the host it was asked as, and those hosts in their order."""
    hosts: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Endpoints", (_Endpoints,), {"hosts": hosts}))
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, name="canned endpoints", kwargs={"poll_interval": 0.05})
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", hosts
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@contextlib.contextmanager
def tenants_gateway(folder: Path, tenants: int, *more: str) -> Iterator[TenantsGateway]:
    state = folder / "state"
    state.mkdir()
    world, keys, narrow = TenantWorld(state), [], []
    for number in range(tenants):
        world.tenant(tenant(number))
        keys.append(world.key(tenant(number)).shown)
        narrow.append(world.key(tenant(number), models=(own_model(number),)).shown)
    metrics_key = world.key(tenant(0), role="metrics").shown
    world.store.close()
    with canned_endpoints() as (url, hosts):
        known = [
            entry(name, tenant(number), pods=PodsAddress(url, host_of(name, number)), pods_ready=1, front="pods")
            for number in range(tenants)
            for name in (own_model(number), COMMON)
        ]
        endpoints = folder / "endpoints.json"
        endpoints.write_bytes(msgspec.json.encode(whole(*known)))
        port = free_port()
        argv = ["-m", "pilotlight_gateway", "--host", "127.0.0.1", "--port", str(port), "--endpoints", str(endpoints)]
        with running([*argv, "--state_dir", str(state), *more], port, folder / "gateway.log") as gateway:
            yield TenantsGateway(gateway, metrics_key, keys, narrow, hosts)
