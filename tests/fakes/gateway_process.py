"""A real gateway process before a backend of the test's, with tenants and keys; it can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
from server_ports import free_port
from tenant_world import made_key
from waiting import until

from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.sqlite_store import FILE_NAME, SqliteTenants
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry, PodsAddress


class GatewayProcess:
    """`keys`: one of each tenant, by its name. Every tenant may use the one endpoint, `shared/demo`."""

    def __init__(self, folder: Path, backend_port: int, tenants: Mapping[str, TenantSettings], **entry: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.keys: dict[str, str] = {}
        self._arguments: Sequence[str] = ()
        self._process: subprocess.Popen[bytes] | None = None
        address = PodsAddress(f"http://127.0.0.1:{backend_port}", "demo.shared.localhost")
        fields: dict[str, Any] = {"pods_ready": 1, "front": "pods", **entry}
        made = EndpointEntry("shared", "demo", ("demo",), "d", address, **fields)
        (folder / "endpoints.json").write_bytes(msgspec.json.encode(DirectoryAnswer("e", 1, True, (made,))))
        store = SqliteTenants(folder / FILE_NAME)
        for name, settings in tenants.items():
            key = made_key()
            shared = msgspec.structs.replace(settings, namespaces=("shared",))
            store.change(name, tenant_orders.create_tenant(name, shared, time.time()))
            store.change(name, tenant_orders.create_key(name, key, time.time()))
            self.keys[name] = key.shown
        store.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        argv = [sys.executable, "-m", "pilotlight_gateway", "--host=127.0.0.1", f"--port={self.port}"]
        argv += [f"--endpoints={self.folder / 'endpoints.json'}", f"--state_dir={self.folder}", *self._arguments]
        with (self.folder / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        until(self._ready, 60, self.log)

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        return False

    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()[-4000:]

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, how)
            self._process.wait(30)

    def client(self, tenant: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.keys[tenant]}"}, timeout=30)
