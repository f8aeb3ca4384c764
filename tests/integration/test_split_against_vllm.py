"""Our halves of the split beside vLLM's: each reads what the other writes, and a prompt has the same tokens.

vLLM's own classes of requests and answers are the oracle; importing them takes seconds, and nothing is started.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conversation_kinds import KINDS
from fake_token_source import FakeTokenSource
from inline_templates import InlineTemplates
from spoken_turns import said_by_client
from text_app import TextApp, demo_ids

from pilotlight_engine.contract import GenerateRequest
from pilotlight_predictor.token_tensors import Completion
from pilotlight_predictor.tokens_endpoint import TokensEvents, whole_answer
from pilotlight_protocol.generation import GenerationParameters, TokenDelta, TokenLogprob
from pilotlight_protocol.structured_outputs import StructuredOutputs
from pilotlight_protocol.tokens_api import decode_generate_tokens, parameters_of, sampling_params_of
from pilotlight_text.tokenization.text_loading import load_text

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # vLLM brings its own

ASKED: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is scale to zero?"}],
    "max_tokens": 7,
    "temperature": 0.5,
    "stop_token_ids": [9],
    "logit_bias": {"5": 1.5},
    "logprobs": True,
    "top_logprobs": 2,
}
DELTAS = [
    TokenDelta(0, [5, 6], None, None, [TokenLogprob(5, -0.5, [(5, -0.5), (7, -1.0)], 1), TokenLogprob(6, -0.1)]),
    TokenDelta(0, [7], "length", None, [TokenLogprob(7, float("-inf"))]),
]


def protocol() -> Any:
    from vllm.entrypoints.scale_out.token_in_token_out import protocol as vllms

    return vllms


async def rendered(path: str = "/v1/chat/completions/render", **fields: Any) -> Any:
    response = await TextApp(FakeTokenSource()).post(path, {**ASKED, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def test_vllm_takes_what_we_render() -> None:
    request = protocol().GenerateRequest.model_validate(await rendered(stream=True))
    sampling = request.sampling_params
    assert (sampling.max_tokens, sampling.temperature, sampling.logprobs) == (7, 0.5, 2)
    assert (sampling.stop_token_ids, sampling.logit_bias) == ([9], {5: 1.5})
    assert request.stream is True
    held = GenerationParameters(structured_outputs=StructuredOutputs(json={"type": "object"}))
    request = protocol().GenerateRequest.model_validate({"token_ids": [1], "sampling_params": sampling_params_of(held)})
    assert request.sampling_params.structured_outputs.json == {"type": "object"}


async def test_we_take_what_vllm_renders() -> None:
    """Every field of it, with vLLM's defaults written out."""
    vllms = protocol()
    theirs = vllms.GenerateRequest.model_validate(
        {**await rendered(), "sampling_params": {"max_tokens": 7, "top_p": 0.5}}
    )
    body = decode_generate_tokens(json.dumps(theirs.model_dump()).encode())
    parameters = parameters_of(body)
    assert (parameters.max_tokens, parameters.top_p, parameters.temperature) == (7, 0.5, 1.0)
    assert body.token_ids == theirs.token_ids


def test_vllm_derenders_what_we_generate() -> None:
    vllms = protocol()
    body = decode_generate_tokens(b'{"token_ids": [1, 2], "return_token_ids": true}')
    parameters = GenerationParameters(max_tokens=3, logprobs=2)
    completion = Completion(GenerateRequest("r", [1, 2], parameters))
    completion.add(DELTAS)
    answer = json.loads(whole_answer(body, "r", "demo", 1, completion))
    whole = vllms.DerenderChatRequest.model_validate({"generate_response": answer}).generate_response
    assert whole.choices[0].token_ids == [5, 6, 7]
    assert [one.logprob for one in whole.choices[0].logprobs.content] == [-0.5, -0.1, -9999.0]
    assert whole.usage.total_tokens == 5
    events = TokensEvents(body, "r", 1)
    chunks = [json.loads(line[6:]) for line in events.events(DELTAS).decode().split("\n\n") if line]
    read = [
        vllms.DerenderChatStreamRequest.model_validate({"stream": True, "generate_chunk": chunk}) for chunk in chunks
    ]
    assert [one.generate_chunk.choices[0].finish_reason for one in read] == [None, "length"]


async def test_we_derender_what_vllm_generates_and_vllm_reads_the_state() -> None:
    vllms = protocol()
    tokens = demo_ids("It sleeps.")
    choice = vllms.GenerateTokensStreamChoice(index=0, token_ids=tokens)
    chunk = vllms.GenerateTokensStreamResponse(request_id="r", choices=[choice]).model_dump()
    body = {"stream": True, "generate_chunk": chunk, "chat_request": ASKED, "prompt_token_ids": [5]}
    response = await TextApp(FakeTokenSource()).post("/v1/chat/completions/derender", body)
    told = vllms.DerenderChatStreamResponse.model_validate(response.json())
    assert told.chunk.choices[0].delta.content == "It sleeps."
    assert told.stream_state.output_token_ids == tokens
    whole = vllms.GenerateTokensResponse(
        request_id="r", choices=[vllms.GenerateTokensChoice(index=0, token_ids=tokens, finish_reason="length")]
    )
    body = {"generate_response": whole.model_dump(), "prompt_tokens": 3}
    response = await TextApp(FakeTokenSource()).post("/v1/chat/completions/derender", body)
    assert response.json()["choices"][0]["message"]["content"] == "It sleeps."


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "call" not in kind])
async def test_a_prompt_has_the_tokens_that_transformers_gives_it(kind: str, real_model: Path) -> None:
    """vLLM's renderer is transformers' for such a model (test_templates_against_vllm has where it is not)."""
    from transformers import AutoTokenizer

    app = TextApp(FakeTokenSource())
    app.model._model.set_loaded(load_text(real_model.as_uri(), None, InlineTemplates(), {}))
    messages = said_by_client(KINDS[kind])
    response = await app.post("/v1/chat/completions/render", {"model": "demo", "messages": messages})
    texts = [
        {"role": "system" if turn.role == "developer" else turn.role, "content": "\n".join(turn.words)}
        for turn in KINDS[kind]
    ]
    if kind == "developer":
        texts = [{"role": "system", "content": "A.\n\nB."}, texts[-1]]
    tokenizer = AutoTokenizer.from_pretrained(real_model)
    expected = tokenizer.apply_chat_template(texts, add_generation_prompt=True, return_dict=False)
    assert response.json()["token_ids"] == expected
    assert msgspec.json.decode(response.content)["sampling_params"] == app.model._model.loaded().sampling_defaults
