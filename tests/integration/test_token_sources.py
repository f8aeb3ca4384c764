"""The conformance suite of token sources over real wires: a predictor's process with the scripted engine behind it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from component_process import RunningComponent
from component_process import running as running_component
from server_ports import free_port
from token_source_conformance import Running, TokenSourceConformance

from pilotlight_text.token_source import TokenSource
from pilotlight_transformer.grpc_predictor import GrpcPredictor
from pilotlight_transformer.rest_predictor import RestPredictor
from pilotlight_wire.upstream_address import predictor_address

pytestmark = pytest.mark.integration

SCRIPTED = str(Path(__file__).with_name("scripted_predictor.py"))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComponent]:
    port = free_port()
    folder = tmp_path_factory.mktemp("adapter")
    argv = [SCRIPTED, "--model_name=demo", f"--lora_module=adapter={folder}", f"--http_port={port}", "--step_s=0.001"]
    with running_component(argv, port, tmp_path_factory.mktemp("predictor") / "log", model_name="demo") as component:
        yield component


@pytest.fixture(params=["rest", "grpc"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def has_logprobs(wire: str) -> bool:
    return wire == "rest"


@pytest.fixture
def streams_are_silent(wire: str) -> bool:
    return wire == "grpc"


@pytest.fixture
async def source(predictor: RunningComponent, wire: str) -> AsyncIterator[TokenSource]:
    address = predictor_address(f"127.0.0.1:{predictor.port}", use_tls=False)
    made: TokenSource
    if wire == "grpc":
        made = GrpcPredictor(address, timeout_s=20)
    else:
        made = RestPredictor(address, connect_timeout_s=5, timeout_s=20)
    yield made
    await made.close()


@pytest.fixture
def running(predictor: RunningComponent) -> Running:
    async def count() -> int:
        _, text = await asyncio.to_thread(predictor.get, "/metrics")
        found = re.search(rb"^pilotlight_predictor_sequences_in_flight (\S+)", text, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    return count


class TestRemoteSources(TokenSourceConformance):
    pass
