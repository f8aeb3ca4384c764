"""gRPC at the gateway's port with the clients that people have, unchanged, before an endpoint that speaks REST."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from component_process import RunningComponent, running
from endpoint_entries import entry, whole
from server_ports import free_port
from v2_backend import V2Backend

from pilotlight_gateway.commands import random_key
from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.sqlite_store import FILE_NAME, SqliteTenants
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.endpoint_directory import PodsAddress

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def backend() -> Iterator[tuple[V2Backend, int]]:
    made = V2Backend()
    with made.serving() as port:
        yield made, port


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A state folder, and a key for each of two tenants and for metrics; `poor` may ask once a minute."""
    folder, shown = tmp_path_factory.mktemp("state"), {}
    store = SqliteTenants(folder / FILE_NAME)
    for tenant, limits in (("team", LimitTerms()), ("poor", LimitTerms(requests_per_minute=1))):
        settings = TenantSettings(limits=limits, namespaces=("team",))
        store.change(tenant, tenant_orders.create_tenant(tenant, settings, time.time()))
        key = random_key()
        store.change(tenant, tenant_orders.create_key(tenant, key, time.time()))
        shown[tenant] = key.shown
    key = random_key()
    store.change("team", tenant_orders.create_key("team", key, time.time(), role="metrics"))
    shown["metrics"] = key.shown
    store.close()
    return folder, shown


@pytest.fixture(scope="module")
def gateway(
    backend: tuple[V2Backend, int], keys: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningComponent]:
    folder, port = tmp_path_factory.mktemp("gateway"), free_port()
    pods = PodsAddress(f"http://127.0.0.1:{backend[1]}", "m.team.localhost")
    (folder / "endpoints.json").write_bytes(msgspec.json.encode(whole(entry("m", pods=pods, front="pods"))))
    argv = ["-m", "pilotlight_gateway", f"--port={port}", "--host=127.0.0.1"]
    argv += [f"--endpoints={folder / 'endpoints.json'}", f"--state_dir={keys[0]}"]
    with running(argv, port, folder / "gateway.log") as component:
        yield component


def ran(code: str, gateway: RunningComponent, key: str) -> None:
    """In a process of its own: these clients cannot be imported beside each other."""
    # Ends at an error too, though the threads of a client's stream go on.
    ended = f"import os, sys, traceback\ntry: exec({code!r})\nexcept BaseException: traceback.print_exc(); os._exit(1)"
    command = [sys.executable, "-c", ended, str(gateway.port), key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


TRITON = """
import queue, sys
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

key = {"authorization": f"Bearer {sys.argv[2]}"}
client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("m", headers=key) and client.is_model_ready("team/m", headers=key)
assert client.get_model_metadata("m", headers=key).platform == "a test"
assert [model.name for model in client.get_model_repository_index(headers=key).models] == ["m"]
text = triton.InferInput("text_input", [2], "BYTES")
text.set_data_from_numpy(np.array(["one", "zwei ü".encode()], dtype=object))
answer = client.infer("m", [text], request_id="7", parameters={"max_tokens": 3}, headers=key)
assert answer.as_numpy("text_output").tolist() == [b"heard one", "heard zwei ü".encode()]
assert answer.get_response().id == "7"
for name, headers, code in (("nope", key, "NOT_FOUND"), ("m", {}, "UNAUTHENTICATED"),
                            ("m", {"x-api-key": "plk_wrong"}, "UNAUTHENTICATED")):
    try:
        client.infer(name, [text], headers=headers)
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{code}", error
    else:
        raise AssertionError(name)
one = triton.InferInput("text_input", [1], "BYTES")
one.set_data_from_numpy(np.array(["a b c"], dtype=object))
got = queue.Queue()
client.start_stream(lambda result, error: got.put((result, error)), headers=key)
client.async_stream_infer("m", [one], request_id="9", enable_empty_final_response=True)
pieces, final = [], False
while not final:
    result, error = got.get(timeout=30)
    assert error is None, error
    final = result.get_response().parameters["triton_final_response"].bool_param
    if not final:
        pieces += result.as_numpy("text_output").tolist()
assert pieces == [b"a", b"b", b"c"], pieces
client.stop_stream()
"""

KSERVE = """
import asyncio, sys
import numpy as np
sys.modules["vllm"] = None  # KServe imports it, and torch, wherever it finds it
from kserve import InferenceGRPCClient, InferInput, InferRequest

async def main():
    client = InferenceGRPCClient(f"127.0.0.1:{sys.argv[1]}")
    key = [("x-api-key", sys.argv[2])]
    assert await client.is_server_live() and await client.is_server_ready()
    assert await client.is_model_ready("m", headers=key)
    text = InferInput("text_input", [1], "BYTES", data=["hello"])
    text.set_data_from_numpy(np.array([b"hello"], dtype=object), binary_data=False)
    answer = await client.infer(InferRequest("m", [text], request_id="3"), headers=key)
    assert answer.outputs[0].as_numpy().tolist() in ([b"heard hello"], ["heard hello"]), answer.outputs[0].as_numpy()
    await client.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("code", [TRITON, KSERVE], ids=["tritonclient", "kserve"])
def test_clients_work_unchanged(code: str, gateway: RunningComponent, keys: tuple[Path, dict[str, str]]) -> None:
    ran(code, gateway, keys[1]["team"])


LIMITED = """
import sys
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
text = triton.InferInput("text_input", [1], "BYTES")
text.set_data_from_numpy(np.array(["one"], dtype=object))
codes = []
for _ in range(3):
    try:
        client.infer("m", [text], headers={"x-api-key": sys.argv[2]})
        codes.append("OK")
    except InferenceServerException as error:
        codes.append(error.status())
assert codes == ["OK", *["StatusCode.RESOURCE_EXHAUSTED"] * 2], codes
"""


def test_limits_hold_for_both_protocols(gateway: RunningComponent, keys: tuple[Path, dict[str, str]]) -> None:
    ran(LIMITED, gateway, keys[1]["poor"])
    body = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}
    headers = {"x-api-key": keys[1]["poor"]}
    answer = httpx.post(f"{gateway.base}/v2/models/m/infer", json=body, headers=headers, timeout=30)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    text = httpx.get(f"{gateway.base}/metrics", headers={"x-api-key": keys[1]["metrics"]}, timeout=30).text
    assert 'route="gRPC /v2/models/{model_name}/infer"' in text
    assert "poor" not in text, "metrics name no tenant"
