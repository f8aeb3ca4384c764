"""Waits as the bandwidth cap says: the clock and the lock around `bandwidth`."""

from __future__ import annotations

import threading
import time

from pilotlight_store.transfer.bandwidth import BandwidthCap, full, take


class BandwidthGate:
    """One cap for every transfer of this process."""

    def __init__(self, cap: BandwidthCap | None) -> None:
        self._cap = cap
        self._lock = threading.Lock()
        self._bucket = full(cap, time.monotonic()) if cap else None

    def wait(self, amount_bytes: int, stop: threading.Event) -> None:
        if self._cap is None or self._bucket is None:
            return
        with self._lock:
            wait_s, self._bucket = take(self._cap, self._bucket, amount_bytes, time.monotonic())
        if wait_s:
            stop.wait(wait_s)
