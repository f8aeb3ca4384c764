"""Talks to a running platform over its control socket; blocking, for the command line. Must not: print."""

import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any

from pilotlight_local.errors import NoPlatformError, PlatformError
from pilotlight_local.state_dir import StateDir
from pilotlight_wire.unix_paths import short_unix_path

ANSWER_TIMEOUT_S = 60.0
# Two engines that compile, booted one after the other, and a slot that has to become idle.
PROOF_TIMEOUT_S = 1800.0
END_POLL_PERIOD_S = 0.05


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, state_dir: StateDir, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._state_dir = state_dir

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_unix_path(self._state_dir.control_socket) as address:
            self.sock.connect(address)


class ControlClient:
    """One method per order; every one raises NoPlatformError when no platform answers."""

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir

    def status(self) -> dict[str, Any]:
        return self._ask("GET", "/status")

    def proofs(self) -> dict[str, Any]:
        """The pool's `GET /v1/proofs`."""
        return self._ask("GET", "/proofs")

    def prove(self, body: dict[str, Any]) -> dict[str, Any]:
        """The pool's `POST /v1/proofs`."""
        return self._ask("POST", "/proofs", body, PROOF_TIMEOUT_S)

    def apply(self, paths: list[str]) -> dict[str, Any]:
        return self._ask("POST", "/apply", {"paths": paths})

    def delete(self, namespace: str, name: str) -> int | None:
        """Requests of the endpoint that still run, None when there is no such endpoint."""
        answer = self._ask("POST", "/delete", {"namespace": namespace, "name": name})
        return int(answer["running"]) if answer["deleted"] else None

    def down(self, timeout_s: float) -> None:
        """End the platform; returns when it is gone. Raises PlatformError when it takes too long."""
        running = self._state_dir.running()
        self._ask("POST", "/down", {})
        deadline_s = time.monotonic() + timeout_s
        while self._state_dir.is_locked() or (running is not None and Path(f"/proc/{running.pid}/exe").exists()):
            if time.monotonic() > deadline_s:
                raise PlatformError(
                    f"The platform still ends its pods after {timeout_s:.0f} s. Wait, or kill its process"
                    + (f" {running.pid} (its pods die with it)." if running else ".")
                )
            time.sleep(END_POLL_PERIOD_S)

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> dict[str, Any]:
        connection = _UnixConnection(self._state_dir, timeout_s)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (FileNotFoundError, ConnectionError, http.client.HTTPException) as error:
            raise NoPlatformError(self._state_dir.root) from error
        except TimeoutError as error:
            raise PlatformError(
                "The platform does not answer; look at the terminal where `pilotlight up` runs."
            ) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise PlatformError(str(content.get("error", content)))
        return dict(content)
