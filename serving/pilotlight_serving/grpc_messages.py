"""The messages of Triton's gRPC service that KServe's generated module lacks, and tensors to and from protobuf.

They are declared in a package of our own: tritonclient registers the same names as KServe with other fields, so that
one process cannot import both, and a message's full name does not travel on the wire.
"""

from __future__ import annotations

import struct
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.v2 import (
    MAX_TENSORS,
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
    from_raw,
    from_values,
    to_raw,
)
from pilotlight_serving.kserve_messages import predict_v2

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"string": _Field.TYPE_STRING, "bool": _Field.TYPE_BOOL}


def _declare() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="pilotlight_serving/triton_extension.proto",
        package="pilotlight.serving",
        syntax="proto3",
        dependency=[predict_v2.DESCRIPTOR.name],
    )
    infer_response = "." + predict_v2.ModelInferResponse.DESCRIPTOR.full_name
    index = ".pilotlight.serving.ModelIndex"
    messages: dict[str, list[tuple[str, str, bool]]] = {
        "ModelStreamInferResponse": [("error_message", "string", False), ("infer_response", infer_response, False)],
        "RepositoryIndexRequest": [("repository_name", "string", False), ("ready", "bool", False)],
        "ModelIndex": [(name, "string", False) for name in ("name", "version", "state", "reason")],
        "RepositoryIndexResponse": [("models", index, True)],
    }
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for number, (name, kind, repeated) in enumerate(fields, start=1):
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            field = message.field.add(name=name, number=number, label=label)
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type = _Field.TYPE_MESSAGE
                field.type_name = kind
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"pilotlight.serving.{name}"))
        for name in messages
    }


_classes = _declare()
ModelStreamInferResponse = _classes["ModelStreamInferResponse"]
RepositoryIndexRequest = _classes["RepositoryIndexRequest"]
RepositoryIndexResponse = _classes["RepositoryIndexResponse"]

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_FIXED64, _VARINT = 1, 0
# Fields that Triton's InferParameter has and KServe's does not.
_DOUBLE_PARAM, _UINT64_PARAM = 4, 5


def parameters_from(fields: Any) -> dict[str, Any]:
    """A protobuf parameter map as plain values, Triton's double_param and uint64_param too."""
    return {name: _parameter(name, value) for name, value in fields.items()}


def _parameter(name: str, value: Any) -> Any:
    kind = value.WhichOneof("parameter_choice")
    if kind is not None:
        return getattr(value, kind)
    unknown: Any = UnknownFieldSet(value)
    for field in unknown:
        if field.field_number == _DOUBLE_PARAM and field.wire_type == _FIXED64:
            return struct.unpack("<d", struct.pack("<Q", field.data))[0]
        if field.field_number == _UINT64_PARAM and field.wire_type == _VARINT:
            return field.data
    raise InvalidInput(f"parameter '{name}' has no value", param=name)


def request_from(message: Any) -> InferRequest:
    """A ModelInferRequest with raw or typed contents; raises InvalidInput that names the tensor."""
    raw = message.raw_input_contents
    if len(message.inputs) > MAX_TENSORS:
        raise InvalidInput(f"{len(message.inputs)} input tensors; at most {MAX_TENSORS} are taken", param="inputs")
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(f"{len(message.inputs)} inputs have {len(raw)} raw_input_contents; there must be one each")
    tensors = []
    for position, given in enumerate(message.inputs):
        shape = list(given.shape)
        if raw:
            if given.HasField("contents"):
                raise InvalidInput(f"input '{given.name}' has contents beside raw_input_contents", param=given.name)
            data = from_raw(given.name, given.datatype, shape, raw[position])
        else:
            field = _CONTENTS.get(given.datatype)
            if field is None:
                raise InvalidInput(
                    f"input '{given.name}': datatype '{given.datatype}' needs raw_input_contents, "
                    f"or is not one of {', '.join(_CONTENTS)}",
                    param=given.name,
                )
            data = from_values(given.name, given.datatype, shape, list(getattr(given.contents, field)))
        tensors.append(Tensor(given.name, given.datatype, shape, data, parameters_from(given.parameters)))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise InvalidInput("two input tensors have the same name", param="inputs")
    outputs = [RequestedOutput(output.name, parameters_from(output.parameters)) for output in message.outputs]
    return InferRequest(tensors, message.id or None, parameters_from(message.parameters), outputs)


def response_to(response: InferResponse, request: InferRequest, raw: bool) -> Any:
    """A ModelInferResponse with the outputs the request names; `raw` as the request's inputs were."""
    message = predict_v2.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id or ""
    )
    for name, value in response.parameters.items():
        set_parameter(message.parameters, name, value)
    wanted = {output.name for output in request.outputs}
    known = {tensor.name for tensor in response.outputs}
    for name in wanted - known:
        raise InvalidInput(f"the model has no output '{name}'; it has {', '.join(sorted(known))}", param=name)
    for tensor in response.outputs:
        if wanted and tensor.name not in wanted:
            continue
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            message.raw_output_contents.append(to_raw(tensor.data, tensor.datatype))
        else:
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(tensor.data)
    return message


def set_parameter(fields: Any, name: str, value: bool | int | str) -> None:
    if isinstance(value, bool):
        fields[name].bool_param = value
    elif isinstance(value, int):
        fields[name].int64_param = value
    else:
        fields[name].string_param = str(value)
