"""Starts `python -m pilotlight_transformer` with the demo model's tokenizer, with the arguments KServe injects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from component_process import RunningComponent, running
from server_ports import free_port

MODEL_URI = "bundled://demo-awq"


@contextlib.contextmanager
def transformer(
    predictor_host: str, log: Path, *arguments: str, model_uri: str = MODEL_URI
) -> Iterator[RunningComponent]:
    """A ready transformer of model `demo`; it must end with status 0 when it is told to."""
    port = free_port()
    argv = ["-m", "pilotlight_transformer", "--model_name=demo", f"--predictor_host={predictor_host}"]
    argv += [f"--model_uri={model_uri}", f"--http_port={port}", "--workers=100", *arguments]
    with running(argv, port, log, model_name="demo") as component:
        yield component
    assert component.process.returncode == 0, log.read_text()
