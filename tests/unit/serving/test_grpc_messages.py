"""Tensors and parameters to and from protobuf, as KServe's and Triton's clients write them."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.v2 import InferRequest, InferResponse, RequestedOutput, Tensor
from pilotlight_serving.grpc_messages import ModelStreamInferResponse, request_from, response_to
from pilotlight_serving.kserve_messages import predict_v2 as pb
from pilotlight_serving.metrics import without_families


def request(**fields: Any) -> Any:
    return pb.ModelInferRequest(model_name="m", id="7", **fields)


def tensor(datatype: str, shape: list[int], **contents: Any) -> Any:
    message = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape)
    if contents:
        message.contents.CopyFrom(pb.InferTensorContents(**contents))
    return message


@pytest.mark.parametrize(
    ("message", "values"),
    [
        (request(inputs=[tensor("INT32", [2], int_contents=[1, -2])]), [1, -2]),
        (request(inputs=[tensor("INT64", [1, 2], int64_contents=[1, 2**40])]), [1, 2**40]),
        (request(inputs=[tensor("BYTES", [1], bytes_contents=[b"\xff"])]), [b"\xff"]),
        (request(inputs=[tensor("BOOL", [1], bool_contents=[True])]), [True]),
        (request(inputs=[tensor("INT32", [2])], raw_input_contents=[struct.pack("<ii", 1, -2)]), [1, -2]),
    ],
)
def test_inputs(message: Any, values: list[Any]) -> None:
    read = request_from(message)
    assert read.id == "7"
    assert read.inputs[0].data == values


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (request(inputs=[tensor("INT32", [2])], raw_input_contents=[b"", b""]), "one each"),
        (request(inputs=[tensor("INT32", [1], int_contents=[1])], raw_input_contents=[b"\0" * 4]), "beside"),
        (request(inputs=[tensor("INT32", [2])], raw_input_contents=[b"\0"]), "needs 8 bytes"),
        (request(inputs=[tensor("FP16", [1])]), "needs raw_input_contents"),
        (request(inputs=[tensor("INT8", [1], int_contents=[300])]), "out of range"),
        (request(inputs=[tensor("INT32", [1], int_contents=[1])] * 2), "same name"),
        (request(inputs=[tensor("INT32", [1], int_contents=[1])] * 17), "at most 16"),
    ],
)
def test_bad_inputs_are_named(message: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        request_from(message)


def test_parameters_of_triton_clients() -> None:
    message = request(inputs=[tensor("INT32", [1], int_contents=[1])])
    message.parameters["n"].int64_param = 2
    message.parameters["ignore_eos"].bool_param = True
    # double_param = 4 and uint64_param = 5 are Triton's; KServe's message does not know them.
    message.parameters["temperature"].MergeFromString(b"\x21" + struct.pack("<d", 0.5))
    message.parameters["seed"].MergeFromString(b"\x28\x07")
    assert request_from(message).parameters == {"n": 2, "ignore_eos": True, "temperature": 0.5, "seed": 7}
    message.parameters["empty"].SetInParent()
    with pytest.raises(InvalidInput, match="'empty' has no value"):
        request_from(message)


RESPONSE = InferResponse(
    "m",
    "1",
    [
        Tensor("ids", "INT32", [1, 2], [1, 2]),
        Tensor("why", "BYTES", [1], [b"stop"]),
    ],
    "7",
    {"index": 0, "last": True, "note": "n"},
)


def test_outputs_typed_and_raw() -> None:
    typed = response_to(RESPONSE, InferRequest([]), raw=False)
    assert list(typed.outputs[0].contents.int_contents) == [1, 2]
    assert list(typed.outputs[1].contents.bytes_contents) == [b"stop"]
    assert typed.parameters["last"].bool_param is True
    raw = response_to(RESPONSE, InferRequest([]), raw=True)
    assert list(raw.raw_output_contents) == [struct.pack("<ii", 1, 2), b"\4\0\0\0stop"]


def test_only_the_named_outputs_are_sent() -> None:
    named = response_to(RESPONSE, InferRequest([], outputs=[RequestedOutput("why")]), raw=False)
    assert [output.name for output in named.outputs] == ["why"]
    with pytest.raises(InvalidInput, match="no output 'z'; it has ids, why"):
        response_to(RESPONSE, InferRequest([], outputs=[RequestedOutput("z")]), raw=False)


def test_tritons_stream_message_has_its_field_numbers() -> None:
    message = ModelStreamInferResponse(error_message="e")
    message.infer_response.id = "7"
    assert message.SerializeToString() == b"\x0a\x01e\x12\x03\x1a\x017"


def test_families_that_both_have_are_sent_once() -> None:
    text = b"# HELP a A\n# TYPE a gauge\na 1\n# HELP b B\n# TYPE b gauge\nb 2"
    assert without_families(text, frozenset({b"a"})) == b"# HELP b B\n# TYPE b gauge\nb 2\n"
