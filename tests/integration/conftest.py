"""What the integration tests share: the fakes, and one predictor with real vLLM for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from component_process import RunningComponent, running
from server_ports import free_port

# An engine boots in 5 to 15 s on idle cores; the machine may be shared.
BOOT_DEADLINE_S = 180.0


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComponent]:
    """`python -m pilotlight_predictor` serving the bundled AWQ model as `demo` on the CPU."""
    port = free_port()
    argv = ["-m", "pilotlight_predictor", "--model_name=demo", "--model_uri=bundled://demo-awq", f"--http_port={port}"]
    log = tmp_path_factory.mktemp("predictor") / "predictor.log"
    with running(argv, port, log, deadline_s=BOOT_DEADLINE_S, model_name="demo") as component:
        yield component
