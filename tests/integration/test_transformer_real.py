"""Transformer, predictor and real vLLM with the bundled AWQ model: the `openai` client gets words, over both wires."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from component_process import RunningComponent
from transformer_process import transformer

pytestmark = pytest.mark.integration

MESSAGES: list[dict[str, str]] = [{"role": "user", "content": "Hello! Who are you?"}]


@pytest.fixture(scope="module", params=["v2", "grpc-v2"])
def wire(request: pytest.FixtureRequest) -> str:
    wire: str = request.param
    return wire


@pytest.fixture(scope="module")
def client(wire: str, predictor: RunningComponent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    log: Path = tmp_path_factory.mktemp("transformer") / "log"
    with (
        transformer(f"demo.localhost:{predictor.port}", log, f"--predictor_protocol={wire}") as served,
        openai.OpenAI(base_url=served.base + "/openai/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def test_a_stream_and_a_whole_answer_are_the_same_words(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    assert text is not None
    assert len(text.split()) > 2
    chunks = client.chat.completions.create(**ask, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 24


def test_a_stop_string_cuts_the_same_text(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "demo", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 24}
    text = client.completions.create(**ask).choices[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    stopped = client.completions.create(**ask, stop=[stop])
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_what_the_engine_refuses_is_a_400(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="demo", prompt="Hi", max_tokens=1_000_000)


def first_word(client: openai.OpenAI, **fields: Any) -> tuple[list[int], Any]:
    """The tokens of a short greedy answer, and its choice."""
    answer = client.completions.create(
        model="demo",
        prompt="Once upon a time",
        temperature=0,
        max_tokens=4,
        extra_body={"return_token_ids": True} | fields,
    )
    choice: Any = answer.choices[0]
    return choice.token_ids, choice


def test_biases_and_allowed_and_bad_tokens_are_the_engines_to_keep(client: openai.OpenAI) -> None:
    tokens, choice = first_word(client)
    other = tokens[0] + 1
    assert first_word(client, logit_bias={str(other): 100})[0] == [other] * 4
    assert tokens[0] not in first_word(client, logit_bias={str(token): -100 for token in tokens})[0]
    assert set(first_word(client, allowed_token_ids=[other, other + 1])[0]) <= {other, other + 1}
    word = choice.text.split()[0]
    kept = first_word(client, bad_words=[word])
    assert word not in kept[1].text.split()


def test_ids_beyond_the_vocabulary_are_refused_by_name(client: openai.OpenAI) -> None:
    for name, value in (("logit_bias", {"9999999": 1}), ("allowed_token_ids", [9999999])):
        with pytest.raises(openai.BadRequestError) as caught:
            first_word(client, **{name: value})
        assert caught.value.param == name


def test_openais_ranges_are_greedy_where_they_leave_no_choice(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "demo", "messages": MESSAGES, "max_tokens": 8}
    greedy = client.chat.completions.create(**ask, temperature=0).choices[0].message.content
    assert client.chat.completions.create(**ask, top_p=0).choices[0].message.content == greedy
    many = client.chat.completions.create(**ask, temperature=0, n=3)
    assert [choice.message.content for choice in many.choices] == [greedy] * 3


def test_a_special_token_stops_as_text_and_may_be_seen(client: openai.OpenAI) -> None:
    mark, mark_id = "<|im_start|>", 1
    fields = {"logit_bias": {str(mark_id): 100}}
    _, choice = first_word(client, **fields, stop=[mark])
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("", "stop", mark)
    _, choice = first_word(client, **fields, skip_special_tokens=False)
    assert choice.text == mark * 4


def test_a_context_that_is_too_long_is_told_by_its_code(client: openai.OpenAI) -> None:
    for prompt, max_tokens in (("Hi", 1_000_000), ("Hello " * 3000, 1)):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="demo", prompt=prompt, max_tokens=max_tokens)
        assert caught.value.code == "context_length_exceeded"
        assert "maximum context length is" in caught.value.message


def test_what_only_the_engine_knows_is_shown_as_vllm_shows_it(client: openai.OpenAI, wire: str) -> None:
    asked: dict[str, Any] = {"prompt_logprobs": 2, "logprobs": 1, "logprob_token_ids": [5, 6, 7]}
    if wire == "grpc-v2":
        with pytest.raises(openai.APIStatusError) as caught:
            first_word(client, **asked)
        assert caught.value.status_code == 501
        return
    tokens, choice = first_word(client, **asked)
    assert choice.prompt_logprobs[0] is None
    for token_id, entry in zip(choice.prompt_token_ids[1:], choice.prompt_logprobs[1:], strict=True):
        ranks = [told["rank"] for told in entry.values()]
        assert entry[str(token_id)]["logprob"] <= 0
        assert {1, 2} <= set(ranks)
        assert len(entry) == len(set(ranks)) <= 3
    assert len(choice.logprobs.top_logprobs) == len(tokens)
    assert all(len(top) in (3, 4) for top in choice.logprobs.top_logprobs)


def test_an_output_that_repeats_is_ended(client: openai.OpenAI, wire: str) -> None:
    fields = {"logit_bias": {"300": 100}, "repetition_detection": {"max_pattern_size": 2, "min_count": 3}}
    if wire == "grpc-v2":
        with pytest.raises(openai.APIStatusError) as caught:
            first_word(client, **fields)
        assert caught.value.status_code == 501
        return
    tokens, choice = first_word(client, **fields)
    assert tokens == [300] * 3
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "repetition_detected")
