"""A gateway before a platform of many endpoints, ten tenants' in turn, all of them one canned server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from component_process import RunningComponent, running
from scripted_platform import ScriptedPlatform
from server_ports import free_port
from tenant_world import TenantWorld
from tenants_gateway import canned_endpoints, host_of, tenant

from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.endpoint_directory import EndpointEntry, PodsAddress

TENANTS = 10
COMMON = "chat"
"""Every tenant has one that is called so."""


@dataclass(frozen=True)
class ManyEndpoints:
    """`everybodys`: a key that may use all of them by their full names. `ready_s`: from exec until it was ready."""

    gateway: RunningComponent
    platform: ScriptedPlatform
    keys: list[str]
    everybodys: str
    url: str
    ready_s: float

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.gateway.base, headers={"authorization": f"Bearer {key}"}, timeout=30)


def name(number: int) -> str:
    return f"model-{number:04d}"


def endpoint(url: str, number: int, called: str | None = None) -> EndpointEntry:
    owner, model = number % TENANTS, called or name(number)
    pods = PodsAddress(url, host_of(model, owner))
    return EndpointEntry(tenant(owner), model, (model, f"org/{model}"), f"d{number}", pods, 1, front="pods")


def chat(client: httpx.Client, model: str) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": "hi"}]})


@contextlib.contextmanager
def many_endpoints(folder: Path, count: int) -> Iterator[ManyEndpoints]:
    world = TenantWorld(folder)
    names = [tenant(number) for number in range(TENANTS)]
    for each in names:
        world.tenant(each)
    world.tenant("ops", TenantSettings(namespaces=tuple(names)))
    keys, everybodys = [world.key(each).shown for each in names], world.key("ops").shown
    world.store.close()
    with canned_endpoints() as (url, _):
        platform = ScriptedPlatform(folder / "p.sock", url)
        with platform.running():
            platform.tell([endpoint(url, number) for number in range(count - TENANTS)])
            platform.tell([endpoint(url, number, COMMON) for number in range(TENANTS)])
            port = free_port()
            argv = ["-m", "pilotlight_gateway", "--host=127.0.0.1", f"--port={port}", f"--state_dir={folder}"]
            argv += [f"--directory=unix://{platform.socket}", "--request_log=0"]
            started_s = time.monotonic()
            with running(argv, port, folder / "gateway.log") as gateway:
                ready_s = time.monotonic() - started_s
                yield ManyEndpoints(gateway, platform, keys, everybodys, url, ready_s)
