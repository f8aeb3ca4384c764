"""Clients of OpenAI's Responses and Anthropic's Messages, unchanged, before a transformer process.

The model's words are scripted, so that a loop over tools has an end; what it was asked is read off its prompt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from fake_token_predictor import FakeTokenPredictor, Script
from text_app import demo_ids, demo_text
from tool_model import tool_model
from transformer_process import transformer

pytestmark = pytest.mark.integration

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
QUESTION = "How is the weather in Oslo?"
ANSWER = "It rains in Oslo."
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "name": "weather", "description": "The weather.", "parameters": SCHEMA}
CLAUDES_TOOL: Any = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}


class City(pydantic.BaseModel):
    city: str


@pytest.fixture(scope="module")
def predictor() -> Iterator[FakeTokenPredictor]:
    with FakeTokenPredictor().running() as fake:
        yield fake


@pytest.fixture(scope="module")
def base(predictor: FakeTokenPredictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("tools")
    host = f"demo-predictor.ns.localhost:{predictor.port}"
    with transformer(host, folder / "log", model_uri=tool_model(folder / "model")) as running:
        yield running.base


@pytest.fixture
def client(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base}/openai/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(params=["", "/openai"])
def claude(base: str, request: pytest.FixtureRequest) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=base + request.param, api_key="none", max_retries=0) as made:
        yield made


def saying(*texts: str, reason: str = "stop") -> list[Script]:
    """One event per token, and an end of sequence."""
    end = "<|im_end|>" if reason == "stop" else ""
    return [Script(deltas=[[token] for token in demo_ids(text + end)], finish_reason=reason) for text in texts]


def prompts(predictor: FakeTokenPredictor) -> list[str]:
    return [demo_text().codec.decode(seen.body["input_ids"]) for seen in predictor.seen]


def assert_told_of_the_call(prompt: str) -> None:
    call = prompt.partition("<tool_call>\n{")[2].partition("\n</tool_call>")[0]
    assert json.loads("{" + call) == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert "rain" in prompt.rpartition("</tool_call>")[2]


# The openai client


def test_a_response_and_what_follows_it(client: Any, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying("Hello.", "Again."))
    first = client.responses.create(model="demo", input="Hi", instructions="Be brief.", max_output_tokens=9)
    assert (first.output_text, first.status) == ("Hello.", "completed")
    assert first.usage is not None
    assert first.usage.input_tokens == len(predictor.seen[0].body["input_ids"])
    again = client.responses.create(model="demo", input="And now?", previous_response_id=first.id)
    assert again.output_text == "Again."
    prompt = prompts(predictor)[1]
    assert prompt.index("Hi") < prompt.index("Hello.") < prompt.index("And now?")
    assert client.responses.retrieve(first.id).output_text == "Hello."
    assert [item.type for item in client.responses.input_items.list(first.id)] == ["message"]
    client.responses.delete(first.id)
    for gone in (lambda: client.responses.retrieve(first.id), lambda: client.responses.cancel(first.id)):
        with pytest.raises(openai.NotFoundError):
            gone()


def test_a_streamed_response_as_the_client_folds_it(client: Any, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying(f"I look.{CALL}\n{CALL}"))
    with client.responses.stream(model="demo", input=QUESTION, tools=[TOOL]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    assert final.output_text == "I look."
    calls = [item for item in final.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Oslo"}] * 2
    assert len({call.call_id for call in calls}) == 2
    assert sum(event.type == "response.function_call_arguments.delta" for event in events) > 2
    stored = client.responses.retrieve(final.id)
    assert [item.model_dump(exclude={"parsed_arguments"}) for item in calls] == [
        item.model_dump() for item in stored.output if item.type == "function_call"
    ]


@pytest.mark.parametrize("stored", [True, False])
def test_a_loop_over_tools(client: Any, predictor: FakeTokenPredictor, stored: bool) -> None:
    predictor.plan(*saying(f"I look.{CALL}", ANSWER))
    ask: dict[str, Any] = {"model": "demo", "tools": [TOOL]}
    first = client.responses.create(**ask, input=QUESTION, store=stored)
    (call,) = [item for item in first.output if item.type == "function_call"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    if stored:
        last = client.responses.create(**ask, input=[result], previous_response_id=first.id)
    else:
        history = [{"role": "user", "content": QUESTION}, *[item.model_dump() for item in first.output], result]
        last = client.responses.create(**ask, input=history)
    assert last.output_text == ANSWER
    assert_told_of_the_call(prompts(predictor)[1])


def test_a_response_parsed_with_pydantic(client: Any, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying('{"city": "Oslo"}', '{"city": "Oslo"}'))
    parsed = client.responses.parse(model="demo", input=QUESTION, text_format=City)
    assert parsed.output_parsed == City(city="Oslo")
    assert predictor.seen[0].body["parameters"]["structured_outputs"]["json"]["required"] == ["city"]
    with client.responses.stream(model="demo", input=QUESTION, text_format=City) as stream:
        assert stream.get_final_response().output_parsed == City(city="Oslo")


def test_errors_of_responses(client: Any, predictor: FakeTokenPredictor) -> None:
    predictor.plan()
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="demo", input="x", tools=[{"type": "web_search"}])
    assert refused.value.param == "tools[0].type"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="demo", input="x", previous_response_id="resp_unknown")
    assert unknown.value.code == "previous_response_not_found"
    predictor.plan(Script(deltas=[[1], [2], [3]], fail_after=(2, 503, "the engine was lost")))
    kinds: list[str] = []
    stream = client.responses.create(model="demo", input="x", stream=True)
    with pytest.raises(openai.APIError, match="the engine was lost"):
        kinds.extend(event.type for event in stream)
    assert kinds[-1] == "response.failed"


# The anthropic client


def test_a_message(claude: Any, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying("Hello."))
    ask: dict[str, Any] = {"model": "demo", "system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}]}
    counted = claude.messages.count_tokens(**ask)
    message = claude.messages.create(**ask, max_tokens=9, stop_sequences=["###"])
    assert [block.text for block in message.content if block.type == "text"] == ["Hello."]
    assert (message.stop_reason, message.role) == ("end_turn", "assistant")
    asked = len(predictor.seen[0].body["input_ids"])
    assert counted.input_tokens == asked == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def test_a_message_cut_and_stopped(claude: Any, predictor: FakeTokenPredictor) -> None:
    ask: dict[str, Any] = {"model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    predictor.plan(*saying("one two", reason="length"), *saying("one STOP two"))
    assert claude.messages.create(**ask).stop_reason == "max_tokens"
    stopped = claude.messages.create(**ask, stop_sequences=["STOP"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "STOP")


def test_a_streamed_message_as_the_client_folds_it(claude: Any, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying(*[f"I look.{CALL}\n{CALL}"] * 2))
    messages: Any = [{"role": "user", "content": QUESTION}]
    ask: dict[str, Any] = {"model": "demo", "max_tokens": 99, "messages": messages, "tools": [CLAUDES_TOOL]}
    with claude.messages.stream(**ask) as stream:
        assert "".join(stream.text_stream) == "I look."
        final = stream.get_final_message()
    whole = claude.messages.create(**ask)
    shown = [block.model_dump(exclude={"id", "parsed_output"}) for block in final.content]
    assert shown == [block.model_dump(exclude={"id"}) for block in whole.content]
    assert [block.input for block in final.content if block.type == "tool_use"] == [{"city": "Oslo"}] * 2
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert final.stop_reason == "tool_use"


def test_a_loop_over_claudes_tools(claude: Any, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying(f"I look.{CALL}", ANSWER))
    ask: dict[str, Any] = {"model": "demo", "max_tokens": 99, "tools": [CLAUDES_TOOL]}
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    first = claude.messages.create(**ask, messages=messages)
    (call,) = [block for block in first.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "rain"}]}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    last = claude.messages.create(**ask, messages=messages)
    assert [block.text for block in last.content if block.type == "text"] == [ANSWER]
    assert_told_of_the_call(prompts(predictor)[1])


def test_errors_of_messages(claude: Any, predictor: FakeTokenPredictor) -> None:
    messages: Any = [{"role": "user", "content": "Hi"}]
    searching: Any = [{"type": "web_search_20250305", "name": "web_search"}]
    predictor.plan()
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        claude.messages.create(model="demo", max_tokens=9, messages=messages, tools=searching)
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nobody", max_tokens=9, messages=messages)
    predictor.plan(Script(deltas=[[1], [2], [3]], fail_after=(2, 503, "the engine was lost")))
    with (
        pytest.raises(anthropic.APIStatusError, match="the engine was lost"),
        claude.messages.stream(model="demo", max_tokens=9, messages=messages) as stream,
    ):
        stream.get_final_message()


# litellm


@pytest.mark.filterwarnings("ignore:.*ReadOnly.*:UserWarning")  # of litellm's own types
@pytest.mark.parametrize("stream", [False, True])
def test_litellm_speaks_to_both(base: str, predictor: FakeTokenPredictor, stream: bool) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing it asks the network
    import litellm

    predictor.plan(*saying("Hello.", "Hello.", "Hello."))
    messages = [{"role": "user", "content": "Hi"}]
    for model, url in (("openai/demo", f"{base}/v1"), ("anthropic/demo", base)):
        answer: Any = litellm.completion(
            model=model, api_base=url, api_key="none", messages=messages, max_tokens=9, stream=stream, num_retries=0
        )
        told = (
            [chunk.choices[0].delta.content or "" for chunk in answer]
            if stream
            else [answer.choices[0].message.content]
        )
        assert "".join(told) == "Hello."
    response: Any = litellm.responses(model="openai/demo", api_base=f"{base}/v1", api_key="none", input="Hi")
    assert response.output[0].content[0].text == "Hello."
