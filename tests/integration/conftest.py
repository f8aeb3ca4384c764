"""What the integration tests share: the fakes, and one predictor with real vLLM for the whole run."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from component_process import RunningComponent, running
from pool_agent import ZygoteProcess, private_dir
from redis_server import RedisServer
from server_ports import free_port

# An engine boots in 5 to 15 s on idle cores; the machine may be shared.
BOOT_DEADLINE_S = 180.0
ROOT = Path(__file__).parents[2]
# What fetches and converts a model may wait for its index and for other work.
REAL_MODEL_DEADLINE_S = 900.0


def made(script: str, name: str, deadline_s: float) -> Path:
    """A folder of `.real-model`, which the script makes where it is missing, once per checkout."""
    out = ROOT / ".real-model"
    out.mkdir(exist_ok=True)
    with (out / f"{script}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / name / "config.json").exists():
            command = [sys.executable, str(ROOT / "scripts" / script), "--out", str(out)]
            subprocess.run(command, check=True, timeout=deadline_s)
    return out / name


@pytest.fixture(scope="session")
def real_model() -> Path:
    """SmolLM2-135M-Instruct in bf16."""
    return made("make_real_model.py", "smollm2-135m", REAL_MODEL_DEADLINE_S)


@pytest.fixture(scope="session")
def embedding_model() -> Path:
    """all-MiniLM-L6-v2."""
    return made("make_embedding_model.py", "minilm-l6-v2", BOOT_DEADLINE_S)


@pytest.fixture(scope="session")
def cross_encoder_model() -> Path:
    """The same encoder under a classifier of one label, whose weights are random."""
    return made("make_embedding_model.py", "minilm-cross-encoder", BOOT_DEADLINE_S)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One that keeps nothing over a restart."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), kept=False)
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteProcess]:
    work_dir = private_dir(tmp_path_factory.mktemp("work") / "w")
    with ZygoteProcess(work_dir, work_dir / "zygote.log") as process:
        process.wait_ready()
        yield process


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComponent]:
    """`python -m pilotlight_predictor` serving the bundled AWQ model as `demo` on the CPU."""
    port = free_port()
    argv = ["-m", "pilotlight_predictor", "--model_name=demo", "--model_uri=bundled://demo-awq", f"--http_port={port}"]
    log = tmp_path_factory.mktemp("predictor") / "predictor.log"
    with running(argv, port, log, deadline_s=BOOT_DEADLINE_S, model_name="demo") as component:
        yield component
