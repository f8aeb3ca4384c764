"""Starts `python -m pilotlight_transformer` as a process for tests, and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

MODEL_URI = "bundled://demo-awq"


@dataclass
class RunningTransformer:
    base: str
    process: subprocess.Popen[bytes]


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def transformer(predictor: str, *arguments: str, model: str = "demo") -> Iterator[RunningTransformer]:
    """A ready transformer; it must end within its drain when it is told to, with status 0."""
    port = free_port()
    command = [sys.executable, "-m", "pilotlight_transformer", "--model_name", model, "--predictor_host", predictor]
    command += ["--model_uri", MODEL_URI, "--http_port", str(port), "--workers=100", *arguments]
    process = subprocess.Popen(command, env={"PATH": os.environ["PATH"]})
    running = RunningTransformer(f"http://127.0.0.1:{port}", process)
    try:
        _wait_until_ready(running)
        yield running
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def _wait_until_ready(running: RunningTransformer, deadline_s: float = 60.0) -> None:
    ends_at = time.monotonic() + deadline_s
    while True:
        assert running.process.poll() is None, "the transformer ended before it was ready"
        try:
            with urllib.request.urlopen(running.base + "/v2/health/ready", timeout=5):
                return
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        assert time.monotonic() < ends_at, "the transformer was not ready in time"
        time.sleep(0.05)
