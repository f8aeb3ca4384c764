"""OpenAI bodies to parameters, prompts and template messages. What is refused is tested over HTTP, too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import RepetitionDetection
from pilotlight_text.openai_api import sampling
from pilotlight_text.openai_api.requests import (
    ChatRequest,
    CompletionRequest,
    prompts_of,
    read_chat_request,
    read_completion_request,
)


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def completion(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "hi", **fields}).encode()


def asked_chat(body: bytes) -> ChatRequest:
    return read_chat_request(body)[0]


def asked_completion(body: bytes) -> CompletionRequest:
    return read_completion_request(body)[0]


def test_every_parameter_of_openai_and_vllm_is_passed_on() -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 2,
        "seed": 7,
        "stop": "x",
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "top_k": 5,
        "min_p": 0.1,
        "min_tokens": 1,
        "repetition_penalty": 1.1,
        "ignore_eos": True,
        "stop_token_ids": [3],
        "priority": -1,
        "cache_salt": "s",
        "logit_bias": {"5": -1.5},
        "bad_words": ["ugly"],
        "allowed_token_ids": [4, 5],
        "logprobs": True,
        "logprob_token_ids": [5],
        "prompt_logprobs": 2,
        "repetition_detection": {"max_pattern_size": 3, "min_count": 2},
        "stream_interval": 4,
    }
    typed = {
        "stop": ["x"],
        "logit_bias": {5: -1.5},
        "logprobs": 0,
        "repetition_detection": RepetitionDetection(3, 0, 2),
    }
    made = sampling.chat_parameters(asked_chat(chat(**fields, max_completion_tokens=9, max_tokens=5)))
    assert {name: getattr(made, name) for name in fields} == fields | typed
    assert made.max_tokens == 9


def test_null_is_the_same_as_nothing_and_unknown_fields_are_ignored() -> None:
    names = "temperature stop n max_tokens tools logit_bias response_format stream stream_options logprobs top_logprobs"
    request = asked_chat(chat(**dict.fromkeys(names.split()), user="u", metadata={"a": 1}, store=True, what=[]))
    assert sampling.chat_parameters(request) == sampling.chat_parameters(asked_chat(chat()))


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 5}, 5)],
)
def test_chat_logprobs(fields: dict[str, Any], logprobs: int | None) -> None:
    assert sampling.chat_parameters(asked_chat(chat(**fields))).logprobs == logprobs


def test_completion_defaults_and_echo() -> None:
    made = sampling.completion_parameters(asked_completion(completion()))
    assert (made.max_tokens, made.logprobs, made.prompt_logprobs) == (16, None, None)
    made = sampling.completion_parameters(asked_completion(completion(echo=True, logprobs=3, max_tokens=0)))
    assert (made.max_tokens, made.logprobs, made.prompt_logprobs) == (1, 3, 3)
    with pytest.raises(InvalidInput):
        sampling.completion_parameters(asked_completion(completion(max_tokens=0)))
    assert asked_completion(completion(best_of=2, n=2)).best_of == 2


def test_what_it_cannot_do_is_harmless_when_it_asks_for_nothing() -> None:
    read_chat_request(chat(tools=[{"type": "function"}], tool_choice="none", modalities=["text"]))
    read_chat_request(chat(response_format={"type": "text"}, logit_bias={}, functions=[]))
    read_completion_request(completion(suffix="", best_of=1, use_beam_search=False))


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_prompts(prompt: Any, prompts: list[Any]) -> None:
    assert prompts_of(prompt) == prompts


@pytest.mark.parametrize("prompt", [[], ["a", 1], [[1], "a"], ["a"] * 257])
def test_bad_prompts(prompt: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        prompts_of(prompt)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(("prompt", "param"), [([-1], "prompt[0]"), ([[1, -1]], "prompt[0][1]")])
def test_a_negative_token_id_is_refused_where_it_is_read(prompt: Any, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_completion_request(completion(prompt=prompt))
    assert caught.value.param == param
