"""V2's text requests: the generate extension's body and the infer tensors. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters, parse_parameters
from pilotlight_protocol.json_bodies import read_json
from pilotlight_protocol.v2 import InferRequest, Tensor
from pilotlight_text.detokenization.text_stream import Completion, Piece
from pilotlight_text.tokenization.truncation import PARAM as TRUNCATE
from pilotlight_text.tokenization.truncation import Truncation

TEXT_INPUT = "text_input"
TEXT_OUTPUT = "text_output"
FINISH_REASON = "finish_reason"
MAX_BATCH = 256

_INCLUDE_STOP = "include_stop_str_in_output"
_SKIP_SPECIAL = "skip_special_tokens"
_SIDE = "truncation_side"
_STREAM = "stream"
_EXCLUDE_INPUT = "exclude_input_in_output"

_bodies = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class TextCall:
    """`texts`: one prompt for generate, a batch for infer."""

    texts: Sequence[str]
    parameters: GenerationParameters
    id: str | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    truncation: Truncation | None = None
    stream: bool = False


def read_generate(body: bytes) -> TextCall:
    """`{"text_input", "id"?, "parameters"?: {…}}`; parameters may also stand flat beside `text_input`.

    Raises InvalidInput naming the field.
    """
    fields = read_json(_bodies, body, "a generate request")
    text = fields.pop(TEXT_INPUT, None)
    if isinstance(text, list) and len(text) == 1:
        text = text[0]
    if not isinstance(text, str):
        raise InvalidInput("'text_input' must be a string", param=TEXT_INPUT)
    request_id = fields.pop("id", None)
    if request_id is not None and not isinstance(request_id, str):
        raise InvalidInput("'id' must be a string", param="id")
    parameters = fields.pop("parameters", None)
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidInput("'parameters' must be an object", param="parameters")
    if fields and parameters:
        _call([text], fields, request_id)  # what is said twice must be right twice; the nested one counts
    return _call([text], {**fields, **(parameters or {})}, request_id)


def read_infer(request: InferRequest) -> TextCall:
    """`text_input` BYTES [batch] or [batch, 1], UTF-8. Raises InvalidInput naming the tensor or parameter."""
    tensor = request.tensor(TEXT_INPUT)
    others = [given.name for given in request.inputs if given.name != TEXT_INPUT]
    if tensor is None or others:
        extra = f"; there is no input '{others[0]}'" if others else ""
        raise InvalidInput(f"this model takes one input, 'text_input' BYTES [batch]{extra}", param=TEXT_INPUT)
    return _call(_texts(tensor), request.parameters, request.id)


def _texts(tensor: Tensor) -> list[str]:
    shape = tensor.shape
    if tensor.datatype != "BYTES":
        raise InvalidInput(f"'text_input' must be BYTES, not {tensor.datatype}", param=TEXT_INPUT)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1) or not 1 <= shape[0] <= MAX_BATCH:
        raise InvalidInput(
            f"'text_input' must have shape [batch] or [batch, 1] with a batch of 1 to {MAX_BATCH}, not {shape}",
            param=TEXT_INPUT,
        )
    try:
        return [item.decode("utf-8") for item in tensor.data]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"'text_input' is not valid UTF-8: {error.reason}", param=TEXT_INPUT) from None


def _call(texts: Sequence[str], given: Mapping[str, Any], request_id: str | None) -> TextCall:
    values = dict(given)
    flags = {
        name: _flag(name, values.pop(name, None)) for name in (_INCLUDE_STOP, _SKIP_SPECIAL, _STREAM, _EXCLUDE_INPUT)
    }
    if flags[_EXCLUDE_INPUT] is False:
        raise InvalidInput(
            "'exclude_input_in_output' false is not supported; use /openai/v1/completions with 'echo'",
            param=_EXCLUDE_INPUT,
        )
    values.pop("binary_data_output", None)
    kept, side = values.pop(TRUNCATE, None), values.pop(_SIDE, None)
    parameters = parse_parameters(values)
    return TextCall(
        texts,
        parameters,
        request_id,
        bool(flags[_INCLUDE_STOP]),
        flags[_SKIP_SPECIAL] is not False,
        _truncation(kept, side, parameters.max_tokens or 1),
        bool(flags[_STREAM]),
    )


def _truncation(kept: Any, side: Any, room: int) -> Truncation | None:
    if side not in (None, "left", "right"):
        raise InvalidInput(f"parameter '{_SIDE}' must be left or right", param=_SIDE)
    if kept is None:
        return None
    if type(kept) is not int or kept < -1:
        raise InvalidInput(f"parameter '{TRUNCATE}' must be a number of tokens, or -1", param=TRUNCATE)
    return Truncation(kept, side or "left", room)


def _flag(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"parameter '{name}' must be true or false", param=name)
    return value


def output_tensors(completions: Sequence[Completion], choices_per_prompt: int) -> list[Tensor]:
    """`text_output` and `finish_reason`, BYTES [batch], or [batch, n] when `n` choices were asked for."""
    shape = [len(completions), choices_per_prompt] if choices_per_prompt > 1 else [len(completions)]
    choices = [choice for completion in completions for choice in completion.choices]
    return _tensors(choices, shape)


def piece_tensors(piece: Piece) -> list[Tensor]:
    """`text_output` and `finish_reason`, BYTES [1], of a streamed piece; the reason is empty until the last."""
    return _tensors([piece], [1])


def _tensors(pieces: Sequence[Piece], shape: list[int]) -> list[Tensor]:
    return [
        Tensor(TEXT_OUTPUT, "BYTES", shape, [piece.text.encode() for piece in pieces]),
        Tensor(FINISH_REASON, "BYTES", shape, [(piece.finish_reason or "").encode() for piece in pieces]),
    ]
