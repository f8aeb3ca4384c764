"""A `pilotlight up` with a warm pool, in processes of its own, for tests that are its clients."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from process_table import children, processes
from server_ports import free_port
from waiting import until


class PooledPlatform:
    """`gateway_port`: None for a platform without a gateway."""

    gateway_port: int | None = None

    def __init__(self, folder: Path, spec: Path | None, *flags: str) -> None:
        self.port, self.state, self.log = free_port(), folder / "state", folder / "up.log"
        gateway = ["--no-gateway"] if self.gateway_port is None else [f"--gateway-port={self.gateway_port}"]
        argv = [
            sys.executable,
            "-m",
            "pilotlight_local",
            "up",
            *([] if spec is None else [str(spec)]),
            *gateway,
            "--port",
            str(self.port),
            *flags,
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*argv, "--state-dir", str(self.state)], stdout=log, stderr=log)

    def status(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "pilotlight_local", "status", "--json", "--state-dir", str(self.state)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {"pool": {"state": "off", "leases": []}}

    def pool_pid(self) -> int:
        (pid,) = processes(str(self.state), "pilotlight_pool")
        return pid

    def engine_pids(self) -> set[int]:
        """Engine hosts: children of the zygote, which is the pool's child."""
        return {host for zygote in children(self.pool_pid()) for host in children(zygote)}

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)


Platform = TypeVar("Platform", bound=PooledPlatform)


@contextlib.contextmanager
def pooled_platform(kind: type[Platform], services: str | None, deadline_s: float, *flags: str) -> Iterator[Platform]:
    """One that serves `services` (YAML, None for no file) and whose pool is ready; none of its processes may be left
    at the end."""
    # Not pytest's folder: its path is too long for a socket, and the marker of our processes must be our own.
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:
        spec = None
        if services is not None:
            spec = Path(folder) / "services.yaml"
            spec.write_text(services, encoding="utf-8")
        running = kind(Path(folder), spec, *flags)
        try:
            until(lambda: running.status()["pool"]["state"] == "ready", deadline_s, "the pool")
            yield running
        finally:
            running.end()
            until(lambda: not processes(folder), 30, "no process outlives the platform")
