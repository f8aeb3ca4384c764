"""What a client may ask of the predictor: prompts of token ids with their limits. Pure.

Reads V2 tensors and the generate body; every refusal names the input or parameter and the numbers that clash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge
from pilotlight_protocol.generation import GenerationParameters, parse_parameters
from pilotlight_protocol.json_bodies import read_json
from pilotlight_protocol.v2 import InferRequest

INPUT_IDS = "input_ids"
INPUT_LENGTHS = "input_lengths"


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """None: the context length is the only limit. `max_sequences` bounds batch rows times `n`."""

    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    max_batch: int = 64
    max_sequences: int = 256


class GenerateBody(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON of generate and generate_stream. `input_ids`: int[seq]."""

    input_ids: list[int]
    id: str | None = None
    parameters: dict[str, Any] = {}


_decoder = msgspec.json.Decoder(GenerateBody)


def decode_generate(body: bytes) -> GenerateBody:
    return read_json(_decoder, body, "a generate request")


def prompts_from(request: InferRequest, max_batch: int) -> list[list[int]]:
    """The rows of `input_ids` INT32|INT64 [batch, seq] ([seq] is taken for a batch of one), each cut to its
    `input_lengths` INT32|INT64 [batch] when that is given."""
    for tensor in request.inputs:
        if tensor.name not in (INPUT_IDS, INPUT_LENGTHS):
            raise InvalidInput(
                f"there is no input '{tensor.name}'; inputs are input_ids, input_lengths", param="inputs"
            )
    ids = request.tensor(INPUT_IDS)
    if ids is None:
        raise InvalidInput("input 'input_ids' is missing; a text goes to the transformer", param=INPUT_IDS)
    if ids.datatype not in ("INT32", "INT64"):
        raise InvalidInput(f"input 'input_ids' must be INT32 or INT64, not {ids.datatype}", param=INPUT_IDS)
    if len(ids.shape) not in (1, 2):
        raise InvalidInput(f"input 'input_ids' must be [batch, seq], not {ids.shape}", param=INPUT_IDS)
    batch, width = ids.shape if len(ids.shape) == 2 else (1, ids.shape[0])
    if batch == 0 or width == 0:
        raise InvalidInput(f"input 'input_ids' is empty: its shape is {ids.shape}", param=INPUT_IDS)
    if batch > max_batch:
        raise PayloadTooLarge(f"a batch of {batch} rows; at most {max_batch} are taken", param=INPUT_IDS)
    rows: list[list[int]] = [ids.data[start : start + width] for start in range(0, batch * width, width)]
    lengths = request.tensor(INPUT_LENGTHS)
    if lengths is None:
        return rows
    if lengths.datatype not in ("INT32", "INT64"):
        raise InvalidInput(f"input 'input_lengths' must be INT32, not {lengths.datatype}", param=INPUT_LENGTHS)
    if len(lengths.data) != batch or len(lengths.shape) not in (1, 2):
        raise InvalidInput(
            f"input 'input_lengths' must be [{batch}] as input_ids has {batch} rows, not {lengths.shape}",
            param=INPUT_LENGTHS,
        )
    for row, length in enumerate(lengths.data):
        if not 1 <= length <= width:
            raise InvalidInput(f"input_lengths[{row}] is {length}; it must be from 1 to {width}", param=INPUT_LENGTHS)
    return [row[:length] for row, length in zip(rows, lengths.data, strict=True)]


def parameters_from(raw: dict[str, Any]) -> GenerationParameters:
    """V2 parameters without the protocol's own; `stop` strings are refused, for tokens are all that is seen here."""
    parameters = parse_parameters({name: value for name, value in raw.items() if name != "binary_data_output"})
    if parameters.stop:
        raise InvalidInput(
            "stop strings are found in text, which the transformer does; send 'stop_token_ids' here, "
            "or the request with 'stop' to the transformer",
            param="stop",
        )
    return parameters


def fit(
    prompts: Sequence[Sequence[int]],
    parameters: GenerationParameters,
    limits: RequestLimits,
    vocab_size: int,
    max_model_len: int,
) -> GenerationParameters:
    """Check every prompt against the model and the limits.

    A `max_tokens` that was not given becomes the server's limit; the engine cuts it to the context. Raises InvalidInput
    (ids, context), PayloadTooLarge (a limit of this server).
    """
    sequences = len(prompts) * parameters.n
    if sequences > limits.max_sequences:
        raise PayloadTooLarge(
            f"{len(prompts)} prompts with n={parameters.n} are {sequences} sequences; "
            f"at most {limits.max_sequences} are taken",
            param="n",
        )
    asked, most = parameters.max_tokens, limits.max_output_tokens
    if asked is not None and most is not None and asked > most:
        raise InvalidInput(
            f"parameter 'max_tokens' is {asked}; this server generates at most {most}", param="max_tokens"
        )
    for row, prompt in enumerate(prompts):
        _check_prompt(row, prompt, limits, vocab_size, max_model_len)
        if asked is not None and len(prompt) + asked > max_model_len:
            raise InvalidInput(
                f"{len(prompt)} prompt tokens + max_tokens {asked} = {len(prompt) + asked} tokens; "
                f"the context holds {max_model_len}",
                param="max_tokens",
            )
    if asked is None and most is not None:
        return msgspec.structs.replace(parameters, max_tokens=max(most, parameters.min_tokens))
    return parameters


def _check_prompt(row: int, prompt: Sequence[int], limits: RequestLimits, vocab_size: int, max_model_len: int) -> None:
    if not prompt:
        raise InvalidInput("input_ids is empty; send at least one token", param=INPUT_IDS)
    if limits.max_prompt_tokens is not None and len(prompt) > limits.max_prompt_tokens:
        raise PayloadTooLarge(
            f"prompt {row} has {len(prompt)} tokens; at most {limits.max_prompt_tokens} are taken", param=INPUT_IDS
        )
    if len(prompt) >= max_model_len:
        raise InvalidInput(
            f"prompt {row} has {len(prompt)} tokens; the context holds {max_model_len} and needs room for one more",
            param=INPUT_IDS,
        )
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        wrong = next(token for token in prompt if not 0 <= token < vocab_size)
        raise InvalidInput(f"token id {wrong} is not in the vocabulary, 0 to {vocab_size - 1}", param=INPUT_IDS)
