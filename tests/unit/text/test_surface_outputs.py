"""However the parts of an answer are cut, the items of a response and the blocks of a message are the same; and what
the events of a stream amount to is what is answered without one."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_text.answer_parts.parts import AnswerPart, ContentText, ReasoningText, ToolCallArguments, ToolCallBegin
from pilotlight_text.anthropic_api import answers as anthropic
from pilotlight_text.anthropic_api.message_output import MessageOutput
from pilotlight_text.anthropic_api.partial_input import input_of
from pilotlight_text.conversation.choices import ChoiceEnd, joined
from pilotlight_text.detokenization.text_stream import Usage
from pilotlight_text.named_events import written
from pilotlight_text.responses_api.answers import usage_object
from pilotlight_text.responses_api.requested_response import response_of
from pilotlight_text.responses_api.requests import ResponsesRequest
from pilotlight_text.responses_api.response_output import ResponseOutput

texts = st.text(min_size=1, max_size=6)
arguments = st.dictionaries(texts, texts | st.integers(-9, 9) | st.lists(texts, max_size=2), max_size=3).map(json.dumps)
spoken = st.lists(
    st.tuples(st.just("content"), texts)
    | st.tuples(st.just("reasoning"), texts)
    | st.tuples(st.just("call"), arguments),
    max_size=5,
)
USAGE = Usage(7, 5, 2)


def parts_of(said: list[tuple[str, str]], cut: int) -> list[AnswerPart]:
    """Every text in pieces of `cut` characters."""
    parts: list[AnswerPart] = []
    calls = count()
    for kind, text in said:
        pieces = [text[place : place + cut] for place in range(0, len(text), cut)]
        if kind == "call":
            call = next(calls)
            parts.append(ToolCallBegin(call, "f"))
            parts += [ToolCallArguments(call, piece) for piece in pieces]
        else:
            parts += [(ContentText if kind == "content" else ReasoningText)(piece) for piece in pieces]
    return parts


def in_batches(parts: list[AnswerPart], size: int) -> list[list[AnswerPart]]:
    return [parts[place : place + size] for place in range(0, len(parts), size)]


def events_of(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(block.partition(b"data: ")[2]) for block in stream.split(b"\n\n") if block]


def new_ids() -> Any:
    numbers = count()
    return lambda prefix: f"{prefix}_{next(numbers)}"


def responded(batches: list[list[AnswerPart]], *, cut: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    output = ResponseOutput(response_of(ResponsesRequest(model="m", input="x"), "resp_1", 1), new_ids())
    stream = written(output.begin())
    for batch in batches:
        stream += written(output.push(batch))
    stream += written(output.finish(usage_object(USAGE), 2, "length" if cut else "stop"))
    return json.loads(msgspec.json.encode(output.response)), events_of(stream)


def folded_response(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client that trusts deltas alone has at the end; on its way it checks the order of things."""
    items: list[dict[str, Any]] = []
    for number, event in enumerate(events):
        assert event["sequence_number"] == number
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            assert all(item["status"] != "in_progress" for item in items), "one at a time"
            items.append(event["item"])
            continue
        if "output_index" not in event:
            continue
        item = items[event["output_index"]]
        if kind != "output_item.done":
            assert event["item_id"] == item["id"]
        if kind == "content_part.added":
            item["content"] = [event["part"]]
        elif kind in ("output_text.delta", "reasoning_text.delta"):
            item["content"][event["content_index"]]["text"] += event["delta"]
        elif kind == "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind in ("output_text.done", "reasoning_text.done"):
            assert event["text"] == item["content"][0]["text"]
        elif kind == "function_call_arguments.done":
            assert event["arguments"] == item["arguments"]
        elif kind == "output_item.done":
            assert event["item"] == {**item, "status": event["item"]["status"]}
            item["status"] = event["item"]["status"]
    return {**events[0]["response"], "output": items}


@given(spoken, st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_a_response_is_one_however_it_is_cut(said: list[tuple[str, str]], cut: int, size: int, ended: bool) -> None:
    parts = parts_of(said, cut)
    whole, _ = responded([joined(parts)], cut=ended)
    streamed, events = responded(in_batches(parts, size), cut=ended)
    assert streamed == whole
    assert events[-1]["response"] == whole
    assert folded_response(events)["output"] == whole["output"]
    assert whole["output"], "there is always something"
    is_whole_call = bool(said) and said[-1][0] == "call"
    last = "incomplete" if ended and not is_whole_call else "completed"
    assert [item["status"] for item in whole["output"]] == ["completed"] * (len(whole["output"]) - 1) + [last]


def messaged(
    batches: list[list[AnswerPart]], end: ChoiceEnd, stopped_by: str | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    usage = anthropic.usage_object(USAGE)
    blank = anthropic.MessageAnswer(
        id="msg_1", model="m", content=[], stop_reason=None, stop_sequence=None, usage=usage
    )
    output = MessageOutput(blank, new_ids())
    stream = written(output.begin(usage))
    for batch in batches:
        stream += written(output.push(batch))
    stream += written(output.finish(usage, end, stopped_by))
    return json.loads(msgspec.json.encode(output.message)), events_of(stream)


def folded_message(events: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = events[0]["message"]
    inputs: dict[int, str] = {}
    open_block: int | None = None
    for event in events[1:]:
        kind = event["type"]
        if kind == "content_block_start":
            assert open_block is None
            assert event["index"] == len(message["content"])
            open_block = event["index"]
            message["content"].append(event["content_block"])
        elif kind == "content_block_delta":
            assert event["index"] == open_block
            delta, block = event["delta"], message["content"][-1]
            if delta["type"] == "input_json_delta":
                inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
            else:
                (name,) = [key for key in delta if key != "type"]
                block[name] += delta[name]
        elif kind == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
        elif kind == "message_delta":
            message |= {**event["delta"], "usage": event["usage"]}
    for place, text in inputs.items():
        message["content"][place]["input"] = input_of(text)
    assert open_block is None
    assert events[-1]["type"] == "message_stop"
    return message


@given(spoken, st.integers(1, 4), st.integers(1, 5), st.sampled_from(["stop", "length", "tool_calls"]))
def test_a_message_is_one_however_it_is_cut(said: list[tuple[str, str]], cut: int, size: int, end: ChoiceEnd) -> None:
    parts = parts_of(said, cut)
    whole, _ = messaged([joined(parts)], end)
    streamed, events = messaged(in_batches(parts, size), end)
    assert streamed == whole == folded_message(events)
    calls = any(kind == "call" for kind, _ in said)
    assert whole["stop_reason"] == ("max_tokens" if end == "length" else "tool_use" if calls else "end_turn")


def test_a_call_that_a_stop_sequence_cut_short_is_not_to_be_run() -> None:
    cut: list[AnswerPart] = [ToolCallBegin(0, "f"), ToolCallArguments(0, '{"a": "b", "c": "d')]
    message, _ = messaged([cut], "stop", stopped_by="###")
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "###")
    assert message["content"][0]["input"] == {"a": "b"}
    done: list[AnswerPart] = [ToolCallBegin(0, "f"), ToolCallArguments(0, '{"a": "b"}')]
    message, _ = messaged([done], "stop", stopped_by="###")
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)


@given(
    st.dictionaries(texts, texts | st.integers(-9, 9) | st.dictionaries(texts, texts, max_size=2), max_size=3),
    st.data(),
)
def test_half_an_object_is_what_of_it_was_finished(given_object: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(given_object)
    assert input_of(text) == given_object
    part = input_of(text[: data.draw(st.integers(0, len(text)))])
    assert list(part) == list(given_object)[: len(part)]
    for key, value in list(part.items())[:-1]:
        assert value == given_object[key]


def test_what_is_no_object_is_none() -> None:
    for text in ("", "[1]", "null", "{" * 5000, '{"a": ' * 5000, "}{", '"', "{,,,"):
        assert input_of(text) == {} or text.startswith('{"a"')
