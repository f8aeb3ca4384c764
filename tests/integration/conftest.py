"""What the integration tests share: the fakes, and one predictor with real vLLM for the whole run."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from component_process import RunningComponent, running
from server_ports import free_port

# An engine boots in 5 to 15 s on idle cores; the machine may be shared.
BOOT_DEADLINE_S = 180.0
ROOT = Path(__file__).parents[2]


ROOT = Path(__file__).parents[2]


def made(name: str) -> Path:
    """A folder of `.real-model`, which is made where it is missing, by one process at a time."""
    out = ROOT / ".real-model"
    out.mkdir(exist_ok=True)
    with (out / ".embedding.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / name).exists():
            command = [sys.executable, str(ROOT / "scripts" / "make_embedding_model.py"), "--out", str(out)]
            subprocess.run(command, check=True, timeout=BOOT_DEADLINE_S)
    return out / name


@pytest.fixture(scope="session")
def embedding_model() -> Path:
    """all-MiniLM-L6-v2."""
    return made("minilm-l6-v2")


@pytest.fixture(scope="session")
def cross_encoder_model() -> Path:
    """The same encoder under a classifier of one label, whose weights are random."""
    return made("minilm-cross-encoder")


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComponent]:
    """`python -m pilotlight_predictor` serving the bundled AWQ model as `demo` on the CPU."""
    port = free_port()
    argv = ["-m", "pilotlight_predictor", "--model_name=demo", "--model_uri=bundled://demo-awq", f"--http_port={port}"]
    log = tmp_path_factory.mktemp("predictor") / "predictor.log"
    with running(argv, port, log, deadline_s=BOOT_DEADLINE_S, model_name="demo") as component:
        yield component


@pytest.fixture(scope="session")
def real_model() -> Path:
    """SmolLM2-135M-Instruct in bf16, made once per checkout as `make real-model` makes it."""
    made = ROOT / ".real-model"
    made.mkdir(exist_ok=True)
    with (made / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "smollm2-135m" / "config.json").exists():
            subprocess.run([sys.executable, str(ROOT / "scripts" / "make_real_model.py")], check=True, timeout=900)
    return made / "smollm2-135m"
