"""The predictor as a strict container runs it: PID 1, unknown UID, read-only root, no HOME, 64 MB of /dev/shm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_ports import free_port

ROOT = Path(__file__).parents[2]
READY_DEADLINE_S = 240
MODEL = "strict"

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    if os.geteuid() != 0:
        pytest.skip("making mount and PID namespaces needs root")
    port = free_port()
    log = tmp_path_factory.mktemp("container") / "predictor.log"
    environment = [f"PATH={Path(sys.executable).parent}:/usr/bin:/bin", f"PORT={port}", "VLLM_CPU_KVCACHE_SPACE=1"]
    command = ["python", "-m", "pilotlight_predictor", f"--model_name={MODEL}", "--model_uri=bundled://demo-awq"]
    arguments = ["--engine_arg=max_model_len=512", "--engine_arg=enforce_eager=true"]
    script = str(ROOT / "tests" / "integration" / "container" / "as_container")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [script, sys.base_prefix, str(ROOT), *environment, "--", *command, *arguments],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"]},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + READY_DEADLINE_S
        while not _ready(url):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.3)
        yield url, process, log
    finally:
        process.kill()
        process.wait(10)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _generate(url: str, ids: list[int]) -> Any:
    body = json.dumps({"input_ids": ids, "parameters": {"max_tokens": 8, "temperature": 0}}).encode()
    request = urllib.request.Request(
        f"{url}/v2/models/{MODEL}/generate", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def _pid_one(supervisor: int) -> int:
    """The host's number of the namespace's first process: `unshare --fork`'s only child."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def test_it_serves(container: tuple[str, subprocess.Popen[bytes], Path]) -> None:
    url, process, _ = container
    status = Path(f"/proc/{_pid_one(process.pid)}/status").read_text()
    assert "\nUid:\t12345" in status
    answer = _generate(url, [5, 6, 7, 8])
    assert 1 <= answer["usage"]["completion_tokens"] <= 8
    assert answer["usage"]["prompt_tokens"] == 4


def test_it_drains_and_ends_as_pid_one(container: tuple[str, subprocess.Popen[bytes], Path]) -> None:
    url, process, log = container
    assert _ready(url)
    os.kill(_pid_one(process.pid), signal.SIGTERM)
    assert process.wait(60) == 0, log.read_text()[-3000:]
    assert "Traceback" not in log.read_text()
