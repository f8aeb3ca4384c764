"""The V2 body: JSON and binary forms carry the same tensors, and each malformed body is named as such."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pilotlight_protocol import v2
from pilotlight_protocol.errors import InvalidInput


def body(**tensor: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": [2], "datatype": "INT32", "data": [1, 2]} | tensor]}).encode()


def test_json_tensors() -> None:
    request = v2.decode_request(body(shape=[1, 2], data=[[1, 2]]))
    tensor = request.tensor("x")
    assert tensor is not None
    assert (tensor.shape, tensor.data) == ([1, 2], [1, 2])
    assert request.tensor("y") is None


def test_binary_tensors_follow_the_json_in_order() -> None:
    raw = np.array([3, 4], dtype="<i4").tobytes()
    text = v2.to_raw([b"\xc3\xa9", b""], "BYTES")
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": len(raw)}},
                {"name": "t", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(text)}},
            ]
        }
    ).encode()
    request = v2.decode_request(head + raw + text, len(head))
    assert [tensor.data for tensor in request.inputs] == [[3, 4], [b"\xc3\xa9", b""]]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b'{"inputs": [], "id": "\xff"}', "UTF-8|utf-8"),
        (b"[]", "infer request"),
        (b"{}", "inputs"),
        (body(datatype="INT31"), "datatype"),
        (body(shape=[3]), "asks for 3 values"),
        (body(shape=[-1, -2]), "bad shape"),
        (body(shape=[2**62, 2**62]), "asks for"),
        (body(data=[1, "2"]), "INT32"),
        (body(data=[1, 1.5]), "INT32"),
        (body(data=[1, True]), "INT32"),
        (body(data=[1, 2**31]), "out of range"),
        (body(data=[[[[[[[[[[1]]]]]]]]], 2]), "nested"),
        (body(data=None), "neither data"),
        (body(data=None, parameters={"binary_data_size": 8}), "binary_data_size"),
        (body(data=None, parameters={"binary_data_size": True}), "binary_data_size"),
        (body(datatype="BYTES"), "strings"),
        (
            json.dumps({"inputs": [{"name": "x", "shape": [], "datatype": "INT32", "data": [1]}] * 2}).encode(),
            "same name",
        ),
        (
            json.dumps({"inputs": [{"name": "x", "shape": [0], "datatype": "INT32", "data": []}] * 99}).encode(),
            "at most",
        ),
    ],
)
def test_malformed_bodies_are_named(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        v2.decode_request(raw)


@pytest.mark.parametrize("length", [-1, 10_000])
def test_header_length_outside_the_body(length: int) -> None:
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length"):
        v2.decode_request(body(), length)


def test_bytes_element_past_the_end() -> None:
    with pytest.raises(InvalidInput, match="past the end"):
        v2.from_raw("t", "BYTES", [1], b"\x09\x00\x00\x00abc")


@given(st.binary(max_size=400), st.none() | st.integers(min_value=-5, max_value=500))
def test_any_body_is_read_or_refused(raw: bytes, length: int | None) -> None:
    try:
        v2.decode_request(raw, length)
    except InvalidInput as error:
        assert error.message


NUMBERS = {name: np.dtype(packed).newbyteorder("<") for name, packed in v2.FORMATS.items() if packed}


@pytest.mark.parametrize("datatype", NUMBERS)
def test_elements_are_numpys(datatype: str) -> None:
    """Clients write and read tensors with numpy: the same bytes and the same values, out of JSON, too."""

    @given(hnp.arrays(NUMBERS[datatype], hnp.array_shapes(max_dims=3, max_side=4), elements={"allow_nan": False}))
    def check(array: np.ndarray[Any, Any]) -> None:
        values = v2.from_raw("x", datatype, list(array.shape), array.tobytes())
        assert values == array.reshape(-1).tolist()
        assert v2.to_raw(values, datatype) == array.tobytes()
        assert v2.from_values("x", datatype, list(array.shape), values) == values

    check()


@pytest.mark.parametrize(("datatype", "value"), [("FP16", 1e6), ("FP32", 1e300), ("UINT8", 256), ("INT64", 2**63)])
def test_what_a_datatype_cannot_hold_is_refused(datatype: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=f"out of range for {datatype}"):
        v2.from_values("x", datatype, [1], [value])


def test_response_names_only_what_was_asked_for_and_in_the_form_asked_for() -> None:
    response = v2.InferResponse(
        "m",
        "1",
        [
            v2.Tensor("a", "INT32", [1, 2], [1, 2]),
            v2.Tensor("b", "BYTES", [1], [b"x"]),
        ],
        id="7",
    )
    everything, size = v2.encode_response(response, v2.InferRequest([]))
    assert size is None
    assert [output["name"] for output in json.loads(everything)["outputs"]] == ["a", "b"]
    asked = v2.InferRequest([], outputs=[v2.RequestedOutput("a", {"binary_data": True})])
    raw, size = v2.encode_response(response, asked)
    assert size is not None
    assert json.loads(raw[:size])["outputs"] == [
        {"name": "a", "datatype": "INT32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    ]
    assert raw[size:] == b"\x01\0\0\0\x02\0\0\0"
    default = v2.InferRequest([], parameters={"binary_data_output": True}, outputs=[v2.RequestedOutput("b")])
    raw, size = v2.encode_response(response, default)
    assert raw[size:] == b"\x01\0\0\0x"
    with pytest.raises(InvalidInput, match="no output 'c'"):
        v2.encode_response(response, v2.InferRequest([], outputs=[v2.RequestedOutput("c")]))
