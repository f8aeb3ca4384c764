"""Structured outputs by real vLLM on the CPU: what comes matches, and what cannot be enforced is refused.

One engine for the file, behind the transformer's routes in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

import jsonschema
import msgspec
import pytest
import pytest_asyncio
from generated_schemas import schema as generated_schema
from text_app import TextApp, events_of
from tokenizers import Tokenizer
from waiting import until_async

from pilotlight_engine.client.child_provider import ChildEngineProvider
from pilotlight_engine.client.own_engine import child_provider
from pilotlight_engine.contract import Engine, GenerateRequest
from pilotlight_engine.leasing.engine_holder import EngineHolder
from pilotlight_models import bundled_model_path
from pilotlight_protocol.engine_frames import HostConfig
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters, TokenDelta
from pilotlight_protocol.structured_outputs import StructuredOutputs
from pilotlight_text.leased_engine_source import LeasedEngineSource

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

CHAT = "/openai/v1/chat/completions"
SCHEMAS = 512
AT_ONCE = 16
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}, "kind": {"enum": ["a", "b"]}},
    "required": ["x", "kind"],
    "additionalProperties": False,
}
TOKENIZER = Tokenizer.from_file(str(bundled_model_path("demo-awq") / "tokenizer.json"))
# Else a small model writes on in a string or an object until its length ends it, and whether any output ends is chance.
CLOSING = {TOKENIZER.get_vocab()[sign]: 4.0 for sign in ('"', "}", "]")}
MASK_BOMB = "((.*)*)*" * 6 + "x"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> ChildEngineProvider:
    arguments = {"enforce_eager": "true", "max_num_seqs": "24"}
    config = HostConfig(model_dir=str(bundled_model_path("demo-awq")), model_name="demo", engine_args=arguments)
    return child_provider(config, os.environ)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def holder(provider: ChildEngineProvider) -> AsyncIterator[EngineHolder]:
    holder = EngineHolder(provider)
    holding = asyncio.create_task(holder.run())
    await until_async(lambda: holder.ready, deadline_s=300.0)
    yield holder
    holding.cancel()
    await asyncio.wait({holding})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(holder: EngineHolder) -> Engine:
    return await holder.engine()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(holder: EngineHolder) -> TextApp:
    return TextApp(cast(Any, LeasedEngineSource(holder, "demo")), max_concurrent_requests=64)


class Choice:
    def __init__(self) -> None:
        self.text = ""
        self.finish_reason: str | None = None


async def chat(app: TextApp, **fields: Any) -> list[Choice] | str:
    """The choices of an answer, streamed or not; a refusal's message."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "JSON?"}], "max_tokens": 320, **fields}
    body["logit_bias"] = {str(token): bias for token, bias in CLOSING.items()}
    response = await app.post(CHAT, body)
    if response.status_code != 200:
        assert response.status_code == 400, response.text
        return str(response.json()["error"]["message"])
    choices = [Choice() for _ in range(fields.get("n", 1))]
    if not fields.get("stream"):
        for found in response.json()["choices"]:
            choices[found["index"]].text = found["message"]["content"]
            choices[found["index"]].finish_reason = found["finish_reason"]
        return choices
    *events, done = events_of(response)
    assert done == "[DONE]"
    for event in events:
        assert "error" not in event, event
        for found in event["choices"]:
            choices[found["index"]].text += found["delta"].get("content") or ""
            choices[found["index"]].finish_reason = found["finish_reason"] or choices[found["index"]].finish_reason
    return choices


def asked_with(seed: int, schema: dict[str, Any]) -> dict[str, Any]:
    """Every way to ask and to be answered, in turn."""
    format_ = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": bool(seed % 2)}}
    ways: tuple[dict[str, Any], ...] = (
        {"response_format": format_},
        {"structured_outputs": {"json": schema}},
        {"guided_json": json.dumps(schema)},
    )
    fields: dict[str, Any] = {**ways[seed % 3], "temperature": (1.0, 0.0, 1.5)[seed % 5 % 3], "stream": seed % 2 == 0}
    if seed % 4 == 0:
        fields |= {"n": 3, "temperature": 1.2}
    if seed % 7 == 0:
        fields["stop"] = ["\u0007never in JSON"]
    if seed % 11 == 0:
        fields["min_tokens"] = 24
    if seed % 13 == 0:
        fields["ignore_eos"] = True
    return fields


async def test_every_output_of_many_schemas_parses_and_validates(app: TextApp) -> None:
    told: Counter[str] = Counter()
    places = asyncio.Semaphore(AT_ONCE)
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER

    async def one(seed: int) -> None:
        schema = generated_schema(seed)
        async with places:
            answer = await chat(app, **asked_with(seed, schema))
        if isinstance(answer, str):
            assert re.search("cannot be compiled: .*(xgrammar|guidance): ", answer), answer
            told["refused"] += 1
            return
        validator = jsonschema.Draft202012Validator(schema, format_checker=formats)
        for choice in answer:
            told[str(choice.finish_reason)] += 1
            if choice.finish_reason == "stop":
                problems = [error.message for error in validator.iter_errors(json.loads(choice.text))]
                assert not problems, (seed, choice.text, problems)
            else:
                assert choice.finish_reason == "length", seed

    await asyncio.gather(*map(one, range(SCHEMAS)))
    assert told["refused"] < SCHEMAS / 10, told
    assert told["stop"] >= SCHEMAS, told
    assert told["length"] < told["stop"] / 2, told


def request(text: str, output: list[int] | None = None, **parameters: Any) -> GenerateRequest:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    return GenerateRequest(
        "r", ids + (output or []), GenerationParameters(**parameters), output_tokens=len(output or [])
    )


async def generated(engine: Engine, asked: GenerateRequest) -> list[TokenDelta]:
    async with contextlib.aclosing(engine.generate(asked)) as stream:
        return [delta async for deltas in stream for delta in deltas]


def text_of(deltas: list[TokenDelta], index: int = 0) -> str:
    ids = [token for delta in deltas if delta.index == index for token in delta.token_ids]
    return str(TOKENIZER.decode(ids))


@pytest.mark.parametrize(
    ("outputs", "pattern"),
    [
        (StructuredOutputs(regex="[a-c]{3}-[0-9]{2}"), "[a-c]{3}-[0-9]{2}"),
        (StructuredOutputs(choice=["yes", 'it is "so"\n', "ß"]), 'yes|it is "so"\n|ß'),
        (StructuredOutputs(grammar='root ::= "a" root "b" | "x"'), "a*xb*"),
        (StructuredOutputs(grammar='start: "x" /[0-9]{2}/ "y"'), "x[0-9]{2}y"),
        (StructuredOutputs(json_object=True, disable_any_whitespace=True), r"\{.*\}"),
        (StructuredOutputs(json=POINT, disable_any_whitespace=True), r'\{"x":\d,"kind":"[ab]"\}'),
        (StructuredOutputs(json={"type": "string", "pattern": "^b"}), '"b.*"'),
        (
            StructuredOutputs(
                structural_tag=json.dumps(
                    {
                        "type": "structural_tag",
                        "format": {
                            "type": "tag",
                            "begin": "<p>",
                            "content": {"type": "json_schema", "json_schema": POINT},
                            "end": "</p>",
                        },
                    }
                )
            ),
            r"<p>\{(.|\n)*\}</p>",
        ),
    ],
)
async def test_every_kind_of_constraint(engine: Engine, outputs: StructuredOutputs, pattern: str) -> None:
    asked = request("A", structured_outputs=outputs, max_tokens=200, n=3, temperature=1.0, min_tokens=2)
    asked.parameters = msgspec.structs.replace(asked.parameters, logit_bias=CLOSING)
    deltas = await generated(engine, asked)
    ends = {delta.index: delta.finish_reason for delta in deltas if delta.finish_reason}
    for index, reason in ends.items():
        text = text_of(deltas, index)
        assert reason == "length" or re.fullmatch(pattern, text, re.DOTALL), (text, reason)
    assert len(ends) == 3
    assert "stop" in ends.values()


@pytest.mark.parametrize("forbidden", [{"ignore_eos": True}, {"min_tokens": 40}])
async def test_an_output_that_is_complete_ends_whatever_forbids_its_end(
    engine: Engine, forbidden: dict[str, Any]
) -> None:
    asked = request("A", structured_outputs=StructuredOutputs(regex="[a-z]{3}"), max_tokens=60, n=2, **forbidden)
    deltas = await generated(engine, asked)
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop", "stop"]
    for index in (0, 1):
        assert re.fullmatch("[a-z]{3}", text_of(deltas, index))
    longer = request("A", structured_outputs=StructuredOutputs(regex="[a-z ]+"), max_tokens=40, **forbidden)
    assert sum(len(delta.token_ids) for delta in await generated(engine, longer)) == 40


async def test_a_stop_token_ends_a_complete_output_only(engine: Engine) -> None:
    vocabulary = TOKENIZER.get_vocab()
    blanks = [vocabulary["Ġ"], vocabulary["Ċ"]]
    for outputs in (StructuredOutputs(json=POINT), StructuredOutputs(json=POINT, disable_any_whitespace=True)):
        asked = request("A", structured_outputs=outputs, max_tokens=200, stop_token_ids=blanks, temperature=1.0)
        deltas = await generated(engine, asked)
        assert deltas[-1].finish_reason == "stop"
        jsonschema.validate(json.loads(text_of(deltas)), POINT)


async def test_a_constraint_that_the_other_parameters_leave_no_token_is_told(engine: Engine) -> None:
    (b,) = TOKENIZER.encode("b", add_special_tokens=False).ids
    outputs = StructuredOutputs(regex="[ab]{3}")
    with pytest.raises(InvalidInput, match="no token"):
        await generated(engine, request("A", structured_outputs=outputs, max_tokens=8, allowed_token_ids=[7, 8, 9]))
    deltas = await generated(engine, request("A", structured_outputs=outputs, max_tokens=8, logit_bias={b: 100.0}))
    assert text_of(deltas) == "bbb"


async def test_what_was_generated_elsewhere_is_gone_on_with(engine: Engine) -> None:
    fixed: dict[str, Any] = {"structured_outputs": StructuredOutputs(json=POINT), "max_tokens": 200, "temperature": 0.0}
    whole = [token for delta in await generated(engine, request("A", **fixed)) for token in delta.token_ids]
    for cut in (1, len(whole) // 2, len(whole) - 1):
        rest = await generated(engine, request("A", whole[:cut], **fixed))
        assert [token for delta in rest for token in delta.token_ids] == whole[cut:]
    with pytest.raises(InvalidInput, match="does not satisfy the constraint"):
        await generated(engine, request("A", [77, 78, 79], **fixed))


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (StructuredOutputs(regex="(a"), "regex"),
        (StructuredOutputs(regex=""), "empty output"),
        (StructuredOutputs(grammar='root ::= "a'), "EBNF"),
        (StructuredOutputs(grammar="root ::= missing"), "missing"),
        (StructuredOutputs(structural_tag='{"a": 1}'), "cannot be compiled"),
        (StructuredOutputs(json={"if": {"type": "string"}, "then": {"maxLength": 3}}), r"Unimplemented keys: \[\"if\""),
        (StructuredOutputs(json={"type": "wrong"}), "wrong"),
        (
            StructuredOutputs(json={"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
            "no output satisfies it",
        ),
        (StructuredOutputs(json={"$ref": "#/nowhere"}), "nowhere"),
    ],
)
async def test_what_cannot_be_enforced_is_refused_with_the_reason(
    engine: Engine, outputs: StructuredOutputs, says: str
) -> None:
    for _ in range(2):
        with pytest.raises(InvalidInput, match=says) as caught:
            await generated(engine, request("A", structured_outputs=outputs, max_tokens=8, ignore_eos=True))
        assert ".cc:" not in caught.value.message
        assert not re.search(r"/(project|usr|home|root|tmp|work)\b", caught.value.message)


async def test_a_bomb_is_refused_and_stops_nobody(engine: Engine, provider: ChildEngineProvider) -> None:
    bombs = [
        StructuredOutputs(regex=MASK_BOMB),
        StructuredOutputs(json={"enum": [f"{'x' * 40}{number}" for number in range(5000)]}),
        StructuredOutputs(grammar="root ::= " + "(" * 3000 + '"a"' + ")" * 3000),
        StructuredOutputs(json={"anyOf": [{"properties": {f"k{n}{m}": {} for m in range(3)}} for n in range(2500)]}),
        StructuredOutputs(regex="(a{1,1000}){1,1000}"),
    ]
    began_s = time.monotonic()
    running = [
        asyncio.create_task(generated(engine, request("A", structured_outputs=bomb, max_tokens=4))) for bomb in bombs
    ]
    others = 0
    while not running[0].done():
        await generated(engine, request("A", max_tokens=16, ignore_eos=True))
        others += 1
    with pytest.raises(InvalidInput, match=r"CPU time|too expensive|takes longer"):
        await running[0]
    await asyncio.wait(running)
    # Compiled or refused: nothing else, and nothing of it in the engine's own process.
    for task in running[1:]:
        assert task.exception() is None or isinstance(task.exception(), InvalidInput)
    assert others > 10, "the engine stood still while a bomb was tried"
    assert time.monotonic() - began_s < 300
    assert provider.pid is not None
    again_s = time.monotonic()
    with pytest.raises(InvalidInput):
        await generated(engine, request("A", structured_outputs=bombs[0], max_tokens=4))
    assert time.monotonic() - again_s < 5, "what was refused once is refused at once"


async def test_priorities_and_a_full_batch(engine: Engine) -> None:
    async def one(number: int) -> None:
        outputs = StructuredOutputs(json=POINT | {"title": f"{number % 3}"})
        asked = request("A", structured_outputs=outputs, max_tokens=120, priority=number % 3, temperature=1.0)
        deltas = await generated(engine, asked)
        if deltas[-1].finish_reason == "stop":
            jsonschema.validate(json.loads(text_of(deltas)), POINT)

    await asyncio.gather(*(one(number) for number in range(60)))


async def test_clients_that_leave_while_their_constraint_is_compiled(engine: Engine) -> None:
    numbers = random.Random(7)
    for _ in range(12):
        schema = POINT | {"description": f"{numbers.random()}"}
        task = asyncio.create_task(generated(engine, request("A", structured_outputs=StructuredOutputs(json=schema))))
        await asyncio.sleep(numbers.random() * 0.02)
        task.cancel()
        await asyncio.wait({task})
    deltas = await generated(engine, request("A", structured_outputs=StructuredOutputs(json=POINT), max_tokens=200))
    assert deltas[-1].finish_reason in ("stop", "length")
    await until_async(lambda: (engine.stats.running, engine.stats.waiting) == (0, 0))


async def test_what_is_preempted_goes_on_with_its_constraint() -> None:
    """Eight outputs want more than the KV cache has, so some are put back and computed again from prompt and output."""
    blocks, block_tokens = 8, 128
    arguments = {"enforce_eager": "true", "max_num_seqs": "8", "max_model_len": "512"}
    arguments["num_gpu_blocks_override"] = str(blocks)
    config = HostConfig(model_dir=str(bundled_model_path("demo-awq")), model_name="demo", engine_args=arguments)
    holder = EngineHolder(child_provider(config, os.environ))
    holding = asyncio.create_task(holder.run())
    array = {"type": "array", "items": {"const": "abc"}, "minItems": 40, "maxItems": 40}
    kinds = (StructuredOutputs(json=array, disable_any_whitespace=True), StructuredOutputs(regex="([a-c]{3}-){70}end"))

    async def one(engine: Engine, number: int) -> int:
        outputs = kinds[number % 2]
        asked = request(f"{number}" * 20, structured_outputs=outputs, max_tokens=460, temperature=1.0, seed=number)
        deltas = await generated(engine, asked)
        assert deltas[-1].finish_reason == "stop"
        if number % 2:
            assert re.fullmatch("([a-c]{3}-){70}end", text_of(deltas)), text_of(deltas)
        else:
            assert json.loads(text_of(deltas)) == ["abc"] * 40
        return sum(len(delta.token_ids) for delta in deltas)

    try:
        await until_async(lambda: holder.ready, deadline_s=300.0)
        engine = await holder.engine()
        tokens = await asyncio.gather(*(one(engine, number) for number in range(8)))
        assert sum(tokens) > 1.3 * blocks * block_tokens, "nothing had to be put back"
    finally:
        holding.cancel()
        await asyncio.wait({holding})
