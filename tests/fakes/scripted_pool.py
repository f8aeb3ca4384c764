"""A fake warm pool behind the predictor's `Transport`: answers in the order of a script, and remembers what was asked.

A script entry is an `Answer`, an exception to raise, or a callable that gets the body. DELETE and heartbeats that no
script foresees are answered well.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pilotlight_engine.leasing.lease_errors import PoolUnreachable
from pilotlight_engine.leasing.pool_http import Answer

Entry = Answer | Exception | Callable[[Mapping[str, Any]], Answer]


def lease(state: str = "active", **more: Any) -> Answer:
    """The answer of the lease API for a lease in this state."""
    content = {"lease_id": "L1", "state": state, "expires_s": 15.0, "secret": "s3cret", "path": "swap"}
    if state == "active":
        content |= {"endpoint": "unix:///slot.sock", "phases_s": {"queue": 0.0, "swap": 0.05}}
    return Answer(201, json.dumps(content | more).encode())


def error(status: int, message: str = "no", retry_after_s: float | None = None) -> Answer:
    return Answer(status, json.dumps({"error": message}).encode(), retry_after_s)


class ScriptedPool:
    """`calls`: (method, path) in order; `bodies`: of the POSTs for leases. Call it for a transport."""

    def __init__(self, *script: Entry) -> None:
        self.script = list(script)
        self.calls: list[tuple[str, str]] = []
        self.bodies: list[Mapping[str, Any]] = []
        self.heartbeats: list[Entry] = []
        self.healthy = True
        self.news = threading.Event()

    def __call__(self) -> ScriptedTransport:
        return ScriptedTransport(self)

    def answer(self, entry: Answer) -> None:
        """End the long poll that is under way with this."""
        self.script.append(entry)
        self.news.set()

    @property
    def given_back(self) -> list[str]:
        return [path.rsplit("/", 1)[-1] for method, path in self.calls if method == "DELETE"]


class ScriptedTransport:
    def __init__(self, pool: ScriptedPool) -> None:
        self._pool = pool
        self._closed = threading.Event()

    def exchange(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer:
        pool, asked = self._pool, json.loads(body or b"{}")
        pool.calls.append((method, path.partition("?")[0]))
        if not pool.healthy:
            raise PoolUnreachable("nobody answers")
        if path == "/healthz":
            return Answer(200)
        if method == "DELETE":
            return Answer(204)
        if path.endswith("/heartbeat"):
            return _play(pool.heartbeats.pop(0) if pool.heartbeats else Answer(200), {})
        if path == "/v1/leases":
            pool.bodies.append(asked)
        until_s = time.monotonic() + float(path.partition("wait_s=")[2] or timeout_s)
        while not pool.script:
            # A long poll: until `answer` or `close`, or as long as was asked for.
            in_time = pool.news.wait(max(0.0, until_s - time.monotonic()))
            if self._closed.is_set():
                raise PoolUnreachable("closed")
            if not in_time:
                return lease("queued")
            pool.news.clear()
        return _play(pool.script.pop(0), asked)

    def close(self) -> None:
        self._closed.set()
        self._pool.news.set()


def _play(entry: Entry, body: Mapping[str, Any]) -> Answer:
    if isinstance(entry, Answer):
        return entry
    if isinstance(entry, Exception):
        raise entry
    return entry(body)
