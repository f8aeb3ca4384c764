"""The V2 (Open Inference Protocol) infer body: JSON and the binary tensor extension, to and from numpy arrays.

Responsible for shapes, datatypes and messages that name the tensor that is wrong. It must not know what the tensors
mean. Source: the Open Inference Protocol and Triton's binary data extension.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.json_bodies import read_json

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
MAX_TENSORS = 16
MAX_DIMENSIONS = 8

Array = npt.NDArray[Any]


class Tensor(msgspec.Struct):
    """A named tensor: `datatype` as V2 spells it, `data` of that dtype (BYTES: object array of `bytes`)."""

    name: str
    datatype: str
    data: Array
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class RequestedOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def binary(self) -> bool | None:
        """Whether the client asked for binary data for this output; None when it did not say."""
        value = self.parameters.get("binary_data")
        return value if isinstance(value, bool) else None


class InferRequest(msgspec.Struct):
    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    outputs: list[RequestedOutput] = msgspec.field(default_factory=list)

    def tensor(self, name: str) -> Tensor | None:
        return next((tensor for tensor in self.inputs if tensor.name == name), None)


class InferResponse(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class _JsonTensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class _JsonRequest(msgspec.Struct):
    inputs: list[_JsonTensor]
    id: str | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    outputs: list[RequestedOutput] = msgspec.field(default_factory=list)


_decoder = msgspec.json.Decoder(_JsonRequest)


def decode_request(body: bytes | memoryview, json_length: int | None = None) -> InferRequest:
    """Read an infer body. `json_length`: the header `Inference-Header-Content-Length`, None when the body is all JSON.

    Raises InvalidInput that names the tensor and what was expected of it.
    """
    view = memoryview(body)
    if json_length is not None and not 0 <= json_length <= len(view):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {json_length}, but the body has {len(view)} bytes",
            param="Inference-Header-Content-Length",
        )
    head = view if json_length is None else view[:json_length]
    request = read_json(_decoder, head, "a V2 infer request")
    if len(request.inputs) > MAX_TENSORS:
        raise InvalidInput(f"{len(request.inputs)} input tensors; at most {MAX_TENSORS} are taken", param="inputs")
    offset = len(head)
    inputs = []
    for given in request.inputs:
        size = given.parameters.get("binary_data_size")
        if size is None:
            inputs.append(_from_json(given))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 0 or offset + size > len(view):
            raise InvalidInput(
                f"input '{given.name}': binary_data_size {size!r} does not fit the body", param=given.name
            )
        inputs.append(
            Tensor(
                given.name,
                given.datatype,
                from_raw(given.name, given.datatype, given.shape, view[offset : offset + size]),
                given.parameters,
            )
        )
        offset += size
    if offset != len(view):
        raise InvalidInput(f"{len(view) - offset} bytes are left over behind the last binary tensor")
    names = [tensor.name for tensor in inputs]
    if len(set(names)) != len(names):
        raise InvalidInput("two input tensors have the same name", param="inputs")
    return InferRequest(inputs, request.id, request.parameters, request.outputs)


def _count(name: str, datatype: str, shape: list[int]) -> int:
    if datatype not in DTYPES:
        raise InvalidInput(f"input '{name}': unknown datatype '{datatype}'; known: {', '.join(DTYPES)}", param=name)
    if len(shape) > MAX_DIMENSIONS or any(side < 0 for side in shape):
        raise InvalidInput(f"input '{name}': bad shape {shape[:MAX_DIMENSIONS]}", param=name)
    return math.prod(shape)


def from_raw(name: str, datatype: str, shape: list[int], raw: bytes | memoryview) -> Array:
    """Little-endian row-major bytes to an array; BYTES elements are prefixed by a uint32 length."""
    count = _count(name, datatype, shape)
    if datatype == "BYTES":
        return _split_bytes(name, count, bytes(raw)).reshape(shape)
    dtype = DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InvalidInput(
            f"input '{name}': shape {shape} of {datatype} needs {count * dtype.itemsize} bytes, got {len(raw)}",
            param=name,
        )
    return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).reshape(shape)


def _split_bytes(name: str, count: int, raw: bytes) -> Array:
    elements: list[bytes] = []
    offset = 0
    while offset < len(raw):
        end = offset + 4
        length = int.from_bytes(raw[offset:end], "little")
        if end + length > len(raw):
            raise InvalidInput(f"input '{name}': a BYTES element runs past the end of the tensor", param=name)
        elements.append(raw[end : end + length])
        offset = end + length
    return bytes_array(elements, count, name)


def bytes_array(elements: list[bytes], count: int, name: str) -> Array:
    if len(elements) != count:
        raise InvalidInput(f"input '{name}': the shape asks for {count} elements, got {len(elements)}", param=name)
    array = np.empty(count, dtype=np.object_)
    array[:] = elements
    return array


def from_values(name: str, datatype: str, shape: list[int], values: list[Any]) -> Array:
    """A flat list of JSON or protobuf values to an array of `datatype`; each value's type and range is checked."""
    count = _count(name, datatype, shape)
    if len(values) != count:
        raise InvalidInput(f"input '{name}': shape {shape} asks for {count} values, got {len(values)}", param=name)
    if datatype == "BYTES":
        elements = []
        for value in values:
            if isinstance(value, str):
                elements.append(value.encode("utf-8", "surrogatepass"))
            elif isinstance(value, bytes):
                elements.append(value)
            else:
                raise InvalidInput(f"input '{name}': BYTES elements must be strings", param=name)
        return bytes_array(elements, count, name).reshape(shape)
    dtype = DTYPES[datatype]
    kinds: tuple[type, ...] = {"b": (bool,), "i": (int,), "u": (int,)}.get(dtype.kind, (int, float))
    if not all(isinstance(value, kinds) and (dtype.kind == "b" or not isinstance(value, bool)) for value in values):
        raise InvalidInput(f"input '{name}': the data must be {datatype} values", param=name)
    if dtype.kind in "iu" and values:
        limits = np.iinfo(dtype)
        if min(values) < limits.min or max(values) > limits.max:
            raise InvalidInput(f"input '{name}': a value is out of range for {datatype}", param=name)
    try:
        return np.array(values, dtype=dtype).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise InvalidInput(f"input '{name}': {error}", param=name) from None


def _from_json(given: _JsonTensor) -> Tensor:
    values = given.data
    if values is None:
        raise InvalidInput(f"input '{given.name}': has neither data nor binary_data_size", param=given.name)
    flat: list[Any] = []
    _flatten(values if isinstance(values, list) else [values], flat, MAX_DIMENSIONS, given.name)
    return Tensor(
        given.name, given.datatype, from_values(given.name, given.datatype, given.shape, flat), given.parameters
    )


def _flatten(values: list[Any], into: list[Any], depth: int, name: str) -> None:
    if depth == 0:
        raise InvalidInput(f"input '{name}': the data is nested deeper than {MAX_DIMENSIONS} levels", param=name)
    if not any(isinstance(value, list) for value in values):
        into.extend(values)
        return
    for value in values:
        _flatten(value if isinstance(value, list) else [value], into, depth - 1, name)


def to_raw(array: Array, datatype: str) -> bytes:
    """The inverse of `from_raw`."""
    if datatype == "BYTES":
        return b"".join(len(item).to_bytes(4, "little") + item for item in array.reshape(-1).tolist())
    return np.ascontiguousarray(array, dtype=DTYPES[datatype].newbyteorder("<")).tobytes()


def encode_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """The infer response's body and, when it carries binary tensors, the length of its JSON part.

    Only the outputs the request names are returned (all when it names none). An output is binary where the request says
    `binary_data`, or by the request's `binary_data_output` default. A name the model does not have is InvalidInput.
    """
    default_binary = request.parameters.get("binary_data_output") is True
    wanted = {output.name: output for output in request.outputs}
    known = {tensor.name for tensor in response.outputs}
    for name in wanted:
        if name not in known:
            raise InvalidInput(f"the model has no output '{name}'; it has {', '.join(sorted(known))}", param=name)
    head: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id is not None:
        head["id"] = response.id
    if response.parameters:
        head["parameters"] = response.parameters
    chunks: list[bytes] = []
    outputs = []
    for tensor in response.outputs:
        if wanted and tensor.name not in wanted:
            continue
        asked = wanted[tensor.name].binary if tensor.name in wanted else None
        item: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.data.shape)}
        if default_binary if asked is None else asked:
            raw = to_raw(tensor.data, tensor.datatype)
            item["parameters"] = {"binary_data_size": len(raw)}
            chunks.append(raw)
        elif tensor.datatype == "BYTES":
            item["data"] = [value.decode("utf-8", "replace") for value in tensor.data.reshape(-1).tolist()]
        else:
            item["data"] = tensor.data.reshape(-1).tolist()
        outputs.append(item)
    head["outputs"] = outputs
    body = msgspec.json.encode(head)
    return (body + b"".join(chunks), len(body)) if chunks else (body, None)
