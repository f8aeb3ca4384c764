"""V2's infer of a pooling model over text: `text_input` to `embedding` or `score`."""

from __future__ import annotations

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.pooling import EMBEDDING, SCORE, parse_pooling_parameters
from pilotlight_protocol.v2 import InferRequest, InferResponse, Tensor
from pilotlight_text.pooling_api.pooling import Pooling, floats
from pilotlight_text.text_model import VERSION, TextModel, timed
from pilotlight_text.v2_api.requests import MAX_BATCH, TEXT_INPUT
from pilotlight_wire.handlers import RequestContext, TensorMetadata

CUT = "truncate_prompt_tokens"


async def infer(model: TextModel, request: InferRequest, context: RequestContext) -> InferResponse:
    """`text_input` BYTES [batch], or [batch, 2] for pairs, → FP32 [batch, size]."""
    pooling = Pooling(model, context, context.model_name)
    given = {name: value for name, value in request.parameters.items() if name != "binary_data_output"}
    cut = given.pop(CUT, None)
    if cut is not None and (type(cut) is not int or cut < -1 or cut == 0):
        raise InvalidInput(f"parameter '{CUT}' must be -1 (the model's length) or at least 1", param=CUT)
    parameters = parse_pooling_parameters(given)
    texts, pairs = _texts(request)
    maker = pooling.rows(cut, None)
    with timed(context, "tokenize"):
        rows = await (
            maker.of_pairs(pairs, param=TEXT_INPUT) if pairs else maker.of_texts(texts, special=True, param=TEXT_INPUT)
        )
    vectors = await pooling.vectors(rows, parameters)
    values = [value for vector in vectors for value in floats(vector)]
    name = EMBEDDING if pooling.traits.task == "embed" else SCORE
    output = Tensor(name, "FP32", [len(vectors), len(values) // len(vectors)], values)
    told = {"prompt_tokens": sum(len(row.input_ids) for row in rows)}
    return InferResponse(context.model_name, VERSION, [output], request.id, told)


def outputs(task: str) -> tuple[TensorMetadata, ...]:
    return (TensorMetadata(EMBEDDING if task == "embed" else SCORE, "FP32", (-1, -1)),)


def _texts(request: InferRequest) -> tuple[list[str], list[tuple[str, str]]]:
    tensor = request.tensor(TEXT_INPUT)
    if tensor is None or len(request.inputs) != 1 or tensor.datatype != "BYTES":
        raise InvalidInput("this model takes one input, 'text_input' BYTES [batch] or [batch, 2]", param=TEXT_INPUT)
    shape = tensor.shape
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] not in (1, 2)) or not 1 <= shape[0] <= MAX_BATCH:
        raise InvalidInput(
            f"'text_input' must have shape [batch] or [batch, 2] with a batch of 1 to {MAX_BATCH}, not {shape}",
            param=TEXT_INPUT,
        )
    try:
        texts = [item.decode("utf-8") for item in tensor.data]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"'text_input' is not valid UTF-8: {error.reason}", param=TEXT_INPUT) from None
    if len(shape) == 2 and shape[1] == 2:
        return [], [(texts[place], texts[place + 1]) for place in range(0, len(texts), 2)]
    return texts, []
