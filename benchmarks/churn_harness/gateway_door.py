"""A gateway before the endpoints of a churn, over its short way alone: it leases, and no pod is behind it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from churn_harness.lease import CLEAN_STATUSES, BrokenConnection, CleanFailure, WrongEngine
from churn_harness.models import Endpoint
from churn_harness.pool import Restarted
from pilotlight_protocol.endpoint_directory import (
    DirectoryAnswer,
    EndpointEntry,
    PodsAddress,
    RequestBounds,
    TextFiles,
)
from pilotlight_protocol.leases import POOL_URL_VARIABLE, Isolation, LeaseRequest

LEASE_DEADLINE_S = 40.0
LEASE_IDLE_S = 0.5
TIMEOUT_S = 55.0


@dataclass
class GatewayDoor(Restarted):
    """`python -m pilotlight_gateway`; everybody may use every endpoint."""

    folder: Path
    port: int
    pool_url: str
    endpoints: Sequence[Endpoint]
    name: str = "gateway"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "gateway.log"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        directory = self.folder / "endpoints.json"
        entries = tuple(_entry(endpoint) for endpoint in self.endpoints)
        directory.write_bytes(msgspec.json.encode(DirectoryAnswer("churn", 1, whole=True, changed=entries)))
        argv = [sys.executable, "-m", "pilotlight_gateway", "--host=127.0.0.1", f"--port={self.port}", "--auth=open"]
        argv += [f"--endpoints={directory}", f"--state_dir={self.folder}"]
        environment = {**os.environ, POOL_URL_VARIABLE: self.pool_url}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment, start_new_session=True)

    async def answer(self, session: aiohttp.ClientSession, endpoint: Endpoint, prompt: int) -> AsyncIterator[list[int]]:
        """The tokens of a stream as they come, to its whole end. Raises CleanFailure, BrokenConnection, WrongEngine."""
        finished = False
        try:
            async with session.post(f"{self.url}/v1/completions", json=_body(endpoint, prompt)) as answer:
                if answer.status != 200:
                    raise await _failure(answer, endpoint)
                async for line in answer.content:
                    if not line.startswith(b"data: "):
                        continue
                    if line.strip() == b"data: [DONE]" and finished:
                        return
                    event = json.loads(line[6:])
                    if event.get("error"):
                        raise CleanFailure(f"error event {event['error'].get('code')} from the gateway")
                    for choice in event["choices"]:
                        finished = finished or choice["finish_reason"] is not None
                        yield choice.get("token_ids") or []
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenConnection(self.name, error) from error
        raise WrongEngine(f"{endpoint.name}: the gateway's stream was cut off without a reason")


async def _failure(answer: aiohttp.ClientResponse, endpoint: Endpoint) -> Exception:
    text = await answer.text()
    with contextlib.suppress(ValueError):
        if answer.status in CLEAN_STATUSES and json.loads(text).get("error"):
            return CleanFailure(f"{answer.status} from the gateway")
    return WrongEngine(f"{endpoint.name} by the gateway: {answer.status} {text[:300]}")


def _body(endpoint: Endpoint, prompt: int) -> Mapping[str, Any]:
    """Of OpenAI's completions: tokens in, and tokens told beside the text."""
    greedy = {"temperature": 0, "ignore_eos": True, "max_tokens": endpoint.output_tokens}
    asked = {"model": endpoint.name, "prompt": list(endpoint.prompts[prompt]), "stream": True}
    return {**asked, **greedy, "return_token_ids": True}


def _entry(endpoint: Endpoint) -> EndpointEntry:
    return EndpointEntry(
        endpoint.tenant,
        endpoint.name,
        (endpoint.name,),
        endpoint.name,
        PodsAddress("http://127.0.0.1:9", "nobody"),
        timeout_s=TIMEOUT_S,
        front="shared",
        lease=LeaseRequest(
            endpoint.model,
            endpoint.name,
            tenant=endpoint.tenant,
            deadline_s=LEASE_DEADLINE_S,
            isolation=msgspec.convert(endpoint.isolation, Isolation),
            engine_args=dict(endpoint.engine_args),
        ),
        text=TextFiles(str(endpoint.folder)),
        bounds=RequestBounds(lease_wait_s=LEASE_DEADLINE_S, lease_idle_s=LEASE_IDLE_S),
    )
