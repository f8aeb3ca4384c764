"""Clients as people use them, unchanged, before a transformer process: tools by hand, in streams and in agents' loops.

The model's words are scripted, so that an agent's loop has an end; what it was asked is read off its prompt.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest
from component_process import RunningComponent
from fake_token_predictor import FakeTokenPredictor, Script
from text_app import demo_ids, demo_text
from tool_model import tool_model
from transformer_process import transformer

pytestmark = pytest.mark.integration

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "unit": "C"}}\n</tool_call>'
ARGUMENTS = {"city": "Oslo", "unit": "C"}
QUESTION = "How is the weather in Oslo?"
ANSWER = "It rains in Oslo."


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: str
    unit: Literal["C", "F"]


TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "description": Weather.__doc__, "parameters": Weather.model_json_schema()},
}


@pytest.fixture(scope="module")
def predictor() -> Iterator[FakeTokenPredictor]:
    with FakeTokenPredictor().running() as fake:
        yield fake


@pytest.fixture(scope="module")
def base_url(predictor: FakeTokenPredictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("tools")
    host = f"demo-predictor.ns.localhost:{predictor.port}"
    with transformer(host, folder / "log", model_uri=tool_model(folder / "model")) as running:
        assert isinstance(running, RunningComponent)
        yield running.base + "/openai/v1"


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as made:
        yield made


def saying(*texts: str) -> list[Script]:
    """One event per token, and an end of sequence."""
    return [Script(deltas=[[token] for token in demo_ids(f"{text}<|im_end|>")], finish_reason="stop") for text in texts]


def prompts(predictor: FakeTokenPredictor) -> list[str]:
    return [demo_text().codec.decode(seen.body["input_ids"]) for seen in predictor.seen]


def assert_told_of_the_call(prompt: str) -> None:
    """A later turn shows the model its call and what came of it, in the template's words."""
    call = prompt.partition("<tool_call>\n{")[2].partition("\n</tool_call>")[0]
    assert json.loads("{" + call) == {"name": "weather", "arguments": ARGUMENTS}
    assert "rain" in prompt.rpartition("</tool_call>")[2]


# The openai client


def test_tools_by_hand(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying(f"I look.{CALL}", ANSWER))
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    choice = client.chat.completions.create(model="demo", messages=messages, tools=[TOOL]).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("I look.", "tool_calls")
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", ARGUMENTS)
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    choice = client.chat.completions.create(model="demo", messages=messages, tools=[TOOL]).choices[0]
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (ANSWER, None, "stop")
    first, second = prompts(predictor)
    assert '"name": "weather"' in first
    assert_told_of_the_call(second)


def test_tools_in_the_clients_stream(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying(f"I look.{CALL}\n{CALL}"))
    tools = [openai.pydantic_function_tool(Weather, name="weather")]
    with client.chat.completions.stream(
        model="demo", messages=[{"role": "user", "content": QUESTION}], tools=tools
    ) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    assert message.content == "I look."
    assert [call.function.parsed_arguments for call in message.tool_calls or ()] == [Weather(city="Oslo", unit="C")] * 2
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [json.loads(event.arguments) for event in done] == [ARGUMENTS] * 2
    deltas = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert len(deltas) > len(done), "arguments come while they are written"
    held = predictor.seen[0].body["parameters"]["structured_outputs"]
    assert "triggered_tags" in held["structural_tag"], "pydantic's tools are strict"


def test_tools_parsed_with_pydantic(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying(CALL))
    tools = [openai.pydantic_function_tool(Weather, name="weather")]
    answer = client.chat.completions.parse(
        model="demo", messages=[{"role": "user", "content": QUESTION}], tools=tools, tool_choice="required"
    )
    (call,) = list(answer.choices[0].message.tool_calls or ())
    assert call.function.parsed_arguments == Weather(city="Oslo", unit="C")
    assert answer.choices[0].message.content is None


def test_an_answer_parsed_with_pydantic(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying(json.dumps(ARGUMENTS)))
    answer = client.chat.completions.parse(
        model="demo", messages=[{"role": "user", "content": QUESTION}], response_format=Weather
    )
    assert answer.choices[0].message.parsed == Weather(city="Oslo", unit="C")
    assert "structured_outputs" in predictor.seen[0].body["parameters"]


def test_a_named_call(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*saying(CALL))
    choice = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": QUESTION}],
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        stream=True,
    )
    chunks = [chunk.choices[0] for chunk in choice]
    assert chunks[-1].finish_reason == "stop", "as OpenAI has it for a call by name"
    assert chunks[1].delta.tool_calls is not None


# Frameworks


def test_instructor(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    import instructor

    call = CALL.replace('"weather"', '"Weather"')
    for mode, text in ((instructor.Mode.TOOLS, call),):
        predictor.plan(*saying(text))
        patched = instructor.from_openai(client, mode=mode)
        found = patched.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": QUESTION}], response_model=Weather, max_retries=0
        )
        assert found.model_dump() == ARGUMENTS
        assert "structured_outputs" in predictor.seen[0].body["parameters"]


@pytest.mark.parametrize("streaming", [False, True])
def test_langchain(base_url: str, predictor: FakeTokenPredictor, streaming: bool) -> None:
    from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    predictor.plan(*saying(CALL, ANSWER))
    model = ChatOpenAI(model="demo", base_url=base_url, api_key="none", max_retries=0, streaming=streaming).bind_tools(
        [TOOL]
    )
    messages: list[Any] = [HumanMessage(QUESTION)]
    said: Any = AIMessageChunk("")
    if streaming:
        for chunk in model.stream(messages):
            said += chunk
    else:
        said = model.invoke(messages)
    (call,) = said.tool_calls
    assert (call["name"], call["args"]) == ("weather", ARGUMENTS)
    messages += [said, ToolMessage("rain", tool_call_id=call["id"])]
    assert model.invoke(messages).content == ANSWER
    assert_told_of_the_call(prompts(predictor)[1])


@pytest.mark.parametrize("streaming", [False, True])
def test_an_agent_that_loops_over_its_tools(base_url: str, predictor: FakeTokenPredictor, streaming: bool) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    asked: list[tuple[str, str]] = []

    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as async_client:
            model = OpenAIChatModel("demo", provider=OpenAIProvider(openai_client=async_client))
            agent: Any = Agent(model, instructions="Be brief.")

            @agent.tool_plain
            def weather(city: str, unit: str) -> str:
                """The weather of a city."""
                asked.append((city, unit))
                return "rain"

            if not streaming:
                return (await agent.run(QUESTION)).output
            async with agent.run_stream(QUESTION) as result:
                return await result.get_output()

    predictor.plan(*saying(CALL, CALL, ANSWER))
    assert asyncio.run(run()) == ANSWER
    assert asked == [("Oslo", "C")] * 2
    assert_told_of_the_call(prompts(predictor)[1])


LITELLM = """
import sys, litellm
try:
    litellm.completion(
        model="openai/demo", api_base=sys.argv[1], api_key="none", num_retries=0,
        messages=[{"role": "user", "content": sys.argv[2]}], max_tokens=int(sys.argv[3]),
    )
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(("content", "max_tokens"), [("Hi", 32_000), ("hello " * 3000, 8)], ids=["answer", "messages"])
def test_frameworks_know_a_context_that_is_too_long_from_other_faults(
    base_url: str, content: str, max_tokens: int
) -> None:
    from langchain_openai import ChatOpenAI
    from langchain_openai.chat_models.base import OpenAIContextOverflowError

    model = ChatOpenAI(model="demo", base_url=base_url, api_key="none", max_retries=0, max_completion_tokens=max_tokens)
    with pytest.raises(OpenAIContextOverflowError):
        model.invoke(content)
    # A process of its own: it leaves its connections open, and asks the network for prices unless it is told not to.
    command = [sys.executable, "-c", LITELLM, base_url, content, str(max_tokens)]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert "ContextWindowExceededError" in ran.stdout.split(), ran.stdout + ran.stderr
