"""How long a client waits is known at the last hop: through gateway, transformer and a predictor that never begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
import pytest
from fake_token_predictor import FakeTokenPredictor, Script, Seen
from gateway_process import GatewayProcess
from transformer_process import transformer
from waiting import until

from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_serving.grpc_messages import ModelStreamInferResponse
from pilotlight_serving.grpc_service import SERVICE
from pilotlight_serving.kserve_messages import predict_v2 as pb

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "stream": True}


@dataclass(frozen=True)
class Chain:
    predictor: FakeTokenPredictor
    gateway: GatewayProcess

    def asked(self) -> Seen:
        """The one request that reached the predictor, which has noticed its end."""
        (seen,) = self.predictor.seen
        until(lambda: seen.aborted, 20, "the work for nobody is ended")
        return seen


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("gateway")
    with ExitStack() as stack:
        predictor = stack.enter_context(FakeTokenPredictor().running())
        pod = stack.enter_context(transformer(f"127.0.0.1:{predictor.port}", folder / "transformer.log"))
        gateway = GatewayProcess(folder, pod.port, {"acme": TenantSettings()})
        gateway.start()
        try:
            yield Chain(predictor, gateway)
        finally:
            gateway.stop()


def test_by_http(chain: Chain) -> None:
    chain.predictor.plan(Script(deltas=[], hold=True))
    with chain.gateway.client("acme") as client:
        answer = client.post("/v1/chat/completions", json=CHAT, headers={"x-request-timeout": "3"})
    assert (answer.status_code, "x-request-timeout" in answer.text) == (504, True)
    assert 0 < float(chain.asked().headers["x-request-timeout"]) < 3


def test_by_grpc(chain: Chain) -> None:
    chain.predictor.plan(Script(deltas=[], hold=True))
    message = pb.ModelInferRequest(model_name="demo")
    message.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"hi")
    metadata = (("authorization", f"Bearer {chain.gateway.keys['acme']}"),)
    with grpc.insecure_channel(f"127.0.0.1:{chain.gateway.port}") as channel:
        call = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=ModelStreamInferResponse.FromString,
        )
        try:
            said = [each.error_message for each in call(iter([message]), timeout=3, metadata=metadata)]
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # the client's own clock was first
        else:
            assert "deadline" in "".join(said)
    assert 0 < float(chain.asked().headers["x-request-timeout"]) < 3
