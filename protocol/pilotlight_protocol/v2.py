"""The V2 (Open Inference Protocol) infer body: JSON and the binary tensor extension, to and from plain values.

Responsible for shapes, datatypes and messages that name the tensor that is wrong. It must not know what the tensors
mean. Source: the Open Inference Protocol and Triton's binary data extension. Without numpy, which took 0.1 s of every
component's start: what is served here are token ids and texts, which are read as lists anyway.
"""

from __future__ import annotations

import math
import struct
from typing import Annotated, Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.json_bodies import read_json

FORMATS = {
    **{"BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q"},
    **{"INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d", "BYTES": ""},
}
"""Datatypes, and how `struct` packs an element; BYTES have a length of their own."""

MAX_TENSORS = 16
MAX_DIMENSIONS = 8


def _documented(**schema: Any) -> msgspec.Meta:
    """What the OpenAPI document says of a field beyond its type; it is checked here, for the sake of the message."""
    return msgspec.Meta(extra_json_schema=schema)


Datatype = Annotated[str, _documented(enum=list(FORMATS))]
Shape = list[Annotated[int, _documented(minimum=0)]]
Parameters = dict[str, Any]


class Tensor(msgspec.Struct):
    """A named tensor: `datatype` as V2 spells it; `data`: its elements in row-major order (BYTES: `bytes`)."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]
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


class InputTensor(msgspec.Struct):
    name: str
    shape: Shape
    datatype: Datatype
    data: Annotated[Any, _documented(type="array")] = None
    parameters: Parameters = msgspec.field(default_factory=dict)


class InferBody(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON of an infer request. KServe's SDK repeats the model's name, which the path has."""

    inputs: Annotated[list[InputTensor], _documented(minItems=1)]
    id: str | None = None
    parameters: Parameters = msgspec.field(default_factory=dict)
    outputs: list[RequestedOutput] = msgspec.field(default_factory=list)
    model_name: str | None = None
    model_version: str | None = None


class OutputTensor(msgspec.Struct):
    name: str
    datatype: Datatype
    shape: Shape
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class InferAnswer(msgspec.Struct, kw_only=True):
    """The JSON of an infer response."""

    model_name: str
    model_version: str
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET
    outputs: list[OutputTensor]


class _AnsweredTensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    data: list[Any] | None = None


class _Answered(msgspec.Struct):
    """As any server may send it: KServe's has null for what it does not say."""

    outputs: list[_AnsweredTensor]
    model_name: str = ""
    model_version: str | None = None
    id: str | None = None
    parameters: Parameters | None = None


_decoder = msgspec.json.Decoder(InferBody)
_answers = msgspec.json.Decoder(_Answered)


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
                given.shape,
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
    if datatype not in FORMATS:
        raise InvalidInput(f"input '{name}': unknown datatype '{datatype}'; known: {', '.join(FORMATS)}", param=name)
    if len(shape) > MAX_DIMENSIONS or any(side < 0 for side in shape):
        raise InvalidInput(f"input '{name}': bad shape {shape[:MAX_DIMENSIONS]}", param=name)
    return math.prod(shape)


def from_raw(name: str, datatype: str, shape: list[int], raw: bytes | memoryview) -> list[Any]:
    """The elements of little-endian row-major bytes; BYTES elements are prefixed by a uint32 length."""
    count = _count(name, datatype, shape)
    if datatype == "BYTES":
        return _split_bytes(name, count, bytes(raw))
    one = "<" + FORMATS[datatype]
    needed = count * struct.calcsize(one)
    if len(raw) != needed:
        raise InvalidInput(
            f"input '{name}': shape {shape} of {datatype} needs {needed} bytes, got {len(raw)}", param=name
        )
    return list(struct.unpack(f"<{count}{FORMATS[datatype]}", raw))


def _split_bytes(name: str, count: int, raw: bytes) -> list[Any]:
    elements: list[bytes] = []
    offset = 0
    while offset < len(raw):
        end = offset + 4
        length = int.from_bytes(raw[offset:end], "little")
        if end + length > len(raw):
            raise InvalidInput(f"input '{name}': a BYTES element runs past the end of the tensor", param=name)
        elements.append(raw[end : end + length])
        offset = end + length
    if len(elements) != count:
        raise InvalidInput(f"input '{name}': the shape asks for {count} elements, got {len(elements)}", param=name)
    return elements


def from_values(name: str, datatype: str, shape: list[int], values: list[Any]) -> list[Any]:
    """The elements of a flat list of JSON or protobuf values; each one's type and range is checked."""
    count = _count(name, datatype, shape)
    if len(values) != count:
        raise InvalidInput(f"input '{name}': shape {shape} asks for {count} values, got {len(values)}", param=name)
    if datatype == "BYTES":
        if not all(isinstance(value, str | bytes) for value in values):
            raise InvalidInput(f"input '{name}': BYTES elements must be strings", param=name)
        return [value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in values]
    one = FORMATS[datatype]
    kinds = {bool} if one == "?" else {int, float} if one in "efd" else {int}
    if not set(map(type, values)) <= kinds:
        raise InvalidInput(f"input '{name}': the data must be {datatype} values", param=name)
    packing = f"<{count}{one}"
    try:
        return list(struct.unpack(packing, struct.pack(packing, *values)))
    except (struct.error, OverflowError):
        raise InvalidInput(f"input '{name}': a value is out of range for {datatype}", param=name) from None


def _from_json(given: InputTensor) -> Tensor:
    values = given.data
    if values is None:
        raise InvalidInput(f"input '{given.name}': has neither data nor binary_data_size", param=given.name)
    flat: list[Any] = []
    _flatten(values if isinstance(values, list) else [values], flat, MAX_DIMENSIONS, given.name)
    data = from_values(given.name, given.datatype, given.shape, flat)
    return Tensor(given.name, given.datatype, given.shape, data, given.parameters)


def _flatten(values: list[Any], into: list[Any], depth: int, name: str) -> None:
    if depth == 0:
        raise InvalidInput(f"input '{name}': the data is nested deeper than {MAX_DIMENSIONS} levels", param=name)
    if not any(isinstance(value, list) for value in values):
        into.extend(values)
        return
    for value in values:
        _flatten(value if isinstance(value, list) else [value], into, depth - 1, name)


def to_raw(data: list[Any], datatype: str) -> bytes:
    """The inverse of `from_raw`."""
    if datatype == "BYTES":
        return b"".join(len(item).to_bytes(4, "little") + item for item in data)
    return struct.pack(f"<{len(data)}{FORMATS[datatype]}", *data)


def encode_request(request: InferRequest) -> tuple[bytes, int | None]:
    """The infer body that `decode_request` reads, and the length of its JSON part where BYTES that are no text follow
    it."""
    chunks: list[bytes] = []
    inputs = [_shown(tensor, chunks) for tensor in request.inputs]
    fields: dict[str, Any] = {"inputs": inputs}
    if request.id is not None:
        fields["id"] = request.id
    if request.parameters:
        fields["parameters"] = request.parameters
    if request.outputs:
        fields["outputs"] = request.outputs
    body = msgspec.json.encode(fields)
    return (body + b"".join(chunks), len(body)) if chunks else (body, None)


def _shown(tensor: Tensor, chunks: list[bytes]) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    parameters = tensor.parameters
    try:
        data = [item.decode("utf-8") for item in tensor.data] if tensor.datatype == "BYTES" else tensor.data
    except UnicodeDecodeError:
        chunks.append(to_raw(tensor.data, tensor.datatype))
        parameters = {**parameters, "binary_data_size": len(chunks[-1])}
    else:
        shown["data"] = data
    return {**shown, "parameters": parameters} if parameters else shown


def decode_response(body: bytes, json_length: int | None = None) -> InferResponse:
    """Read an infer response as a server sent it. Raises InvalidInput for what is none."""
    answer = read_json(_answers, memoryview(body)[:json_length], "a V2 infer response")
    at = len(body) if json_length is None else json_length
    outputs = []
    for told in answer.outputs:
        parameters = dict(told.parameters or {})
        size = parameters.pop("binary_data_size", None)
        if isinstance(size, int):
            data = from_raw(told.name, told.datatype, told.shape, body[at : at + size])
            at += size
        else:
            flat: list[Any] = []
            _flatten(told.data or [], flat, MAX_DIMENSIONS, told.name)
            data = from_values(told.name, told.datatype, told.shape, flat)
        outputs.append(Tensor(told.name, told.datatype, told.shape, data, parameters))
    return InferResponse(
        answer.model_name, answer.model_version or "", outputs, answer.id, dict(answer.parameters or {})
    )


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
    chunks: list[bytes] = []
    outputs = []
    for tensor in response.outputs:
        if wanted and tensor.name not in wanted:
            continue
        asked = wanted[tensor.name].binary if tensor.name in wanted else None
        shown = OutputTensor(tensor.name, tensor.datatype, tensor.shape)
        if default_binary if asked is None else asked:
            raw = to_raw(tensor.data, tensor.datatype)
            shown.parameters = {"binary_data_size": len(raw)}
            chunks.append(raw)
        elif tensor.datatype == "BYTES":
            shown.data = [value.decode("utf-8", "replace") for value in tensor.data]
        else:
            shown.data = tensor.data
        outputs.append(shown)
    answer = InferAnswer(
        model_name=response.model_name,
        model_version=response.model_version,
        id=msgspec.UNSET if response.id is None else response.id,
        parameters=response.parameters or msgspec.UNSET,
        outputs=outputs,
    )
    body = msgspec.json.encode(answer)
    return (body + b"".join(chunks), len(body)) if chunks else (body, None)
