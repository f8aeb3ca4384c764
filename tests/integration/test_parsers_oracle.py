"""Our parsers beside vLLM's own: the same text, the same calls and content. Where they differ, which one is right.

Whole texts only: vLLM's parsers of streams read the whole text again with every token, and several lose what ours must
not (see `DIFFERENT`); that ours reads a stream as it reads the whole is tests/unit/text/test_written_calls.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import written_calls as written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts_reading import Function, maker, read, short
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

# What torch warns of while it is imported is not ours.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

MARKS = (
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>", "<|tool_call|>"),
    *("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<|python_start|>", "<|python_end|>"),
)
PROPERTIES: dict[str, Any] = {
    "s": {"type": "string"},
    "i": {"type": "integer"},
    "n": {"type": "number"},
    "b": {"type": "boolean"},
    "o": {"type": "object"},
    "l": {"type": "array"},
    "u": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "t": {"type": ["integer", "string"]},
    "e": {"enum": [1, "a", None]},
}
Answer = tuple[list[tuple[str, Any]], str]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """vLLM logs a traceback for each text that is no call."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@cache
def vllm_tokenizer(*, without: str = "") -> Any:
    """Bytes and marks, which is all that parsers look at."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: place for place, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(mark, special=True, normalized=False) for mark in MARKS if mark != without]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@cache
def vllm_request() -> Any:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    function = {"name": "f", "parameters": {"type": "object", "properties": PROPERTIES}}
    return ChatCompletionRequest(
        model="m", messages=[{"role": "user", "content": "x"}], tools=[{"type": "function", "function": function}]
    )


def vllm_calls(name: str, text: str, *, without: str = "") -> Answer:
    from vllm.tool_parsers import ToolParserManager

    request = vllm_request()
    parser = ToolParserManager.get_tool_parser(name)(vllm_tokenizer(without=without), request.tools)
    found = parser.extract_tool_calls(text, request)
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in found.tool_calls]
    return calls, (found.content or "").strip()


def our_calls(name: str, text: str) -> Answer:
    parts = short(read(maker(name, tools=(Function("f", {"properties": PROPERTIES}),)), [text]))
    calls = [(name, json.loads(arguments)) for name, arguments in parts if name != "content"]
    return calls, "".join(text for kind, text in parts if kind == "content").strip()


WRITERS = {
    "hermes": written.hermes,
    "granite": written.granite,
    "granite4": written.hermes,
    "granite-20b-fc": written.granite_20b,
    "llama3_json": written.llama_json,
    "deepseek_v3": written.deepseek_v3,
    "deepseek_v31": written.deepseek_v31,
    "pythonic": written.pythonic,
    "llama4_pythonic": written.pythonic,
}
# A mark in a string ends the call in vLLM's, a line break in a name or in Llama's Python is none of theirs.
TAME = written.calls(written.values(written.texts("tool_call>", "[ARGS]", "\\", "\n", "]}", "'", '"')))
BEFORE = st.sampled_from(("", "I will look.\n", "日本: "))
some = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", WRITERS)
@given(calls=TAME, before=BEFORE)
@some
def test_calls(name, calls, before) -> None:
    text = WRITERS[name](calls)
    if name in ("hermes", "granite4", "deepseek_v3", "deepseek_v31"):
        text = before + text
    assert our_calls(name, text) == vllm_calls(name, text)


@given(calls=TAME)
@some
def test_mistrals_two_ways(calls) -> None:
    text = written.mistral_named(calls)
    assert our_calls("mistral", text) == vllm_calls("mistral", text)
    text = written.mistral_list(calls)
    assert our_calls("mistral", text) == vllm_calls("mistral", text, without="[ARGS]")


VALUES = st.one_of(
    st.sampled_from(
        ("1", "-7", "2.50", "1e3", "nan", "1e999", "True", "false", "0", "null", "None", "", " ", "\n", "x\n")
    ),
    st.sampled_from(('{"a": [1, {"b": null}]}', "[]", "[1", '"quoted"', "{'a': 1}", "[1e999]", "日本\n<b>")),
    written.texts("<"),
)


@given(arguments=st.dictionaries(st.sampled_from((*PROPERTIES, "unknown")), VALUES, max_size=4))
@settings(some, max_examples=150)
def test_qwens_tags_and_the_types_of_the_schema(arguments) -> None:
    text = written.qwen_xml([("f", arguments)])
    assert our_calls("qwen3_coder", text) == vllm_calls("qwen3_coder", text)


DIFFERENT = [
    # vLLM: no call at all, since its mark's end is looked for in strings, too.
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"s": "</tool_call>"}}</tool_call>',
        [("f", {"s": "</tool_call>"})],
    ),
    # vLLM: all of it content; the bracket too many is common with small models.
    ("hermes", '<tool_call>{"name": "f", "arguments": {}}}</tool_call>', [("f", {})]),
    # vLLM: the arguments are a string, which no client of a function takes.
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"s\\": 1}"}</tool_call>', [("f", {"s": 1})]),
    # vLLM: no call at all, since its pattern's dots match no line break, and models do write their JSON over several.
    ("deepseek_v3", written.deepseek_v3([("f", {})]).replace("{}", '{\n"i": 1\n}'), [("f", {"i": 1})]),
    # vLLM: no call, since the list ends with the first ']' in an argument.
    ("phi4_mini_json", written.phi([("f", {"l": [1]})]), [("f", {"l": [1]})]),
    # vLLM: two calls, of which one is named '"}[TOOL_CALLS]g'.
    ("mistral", '[TOOL_CALLS]f[ARGS]{"s": "[TOOL_CALLS]g"}', [("f", {"s": "[TOOL_CALLS]g"})]),
    # vLLM: the function is called 'f[CALL_ID]x1'.
    ("mistral", '[TOOL_CALLS]f[CALL_ID]x1[ARGS]{"i": 1}', [("f", {"i": 1})]),
    # vLLM: no call, since text follows.
    ("pythonic", "[f(i=1)]\nThere.", [("f", {"i": 1})]),
]


@pytest.mark.parametrize(("name", "text", "meant"), DIFFERENT)
def test_where_ours_reads_what_was_meant(name, text, meant) -> None:
    assert our_calls(name, text)[0] == meant
    try:
        theirs = vllm_calls(name, text)[0]
    except ValueError:  # arguments that are no JSON
        theirs = []
    assert theirs != meant, "vLLM reads it as we do now: this case is one of the others"


THOUGHT = st.text(st.characters(codec="utf-8", exclude_characters="<["), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("name", "opening", "closing"),
    [
        ("deepseek_r1", "<think>", "</think>"),
        ("deepseek_r1", "", "</think>"),
        ("qwen3", "<think>", "</think>"),
        ("mistral", "[THINK]", "[/THINK]"),
        ("granite", "Here is my thought process:", "Here's my response:"),
    ],
)
@given(thought=THOUGHT, answer=THOUGHT)
@some
def test_reasoning(name, opening, closing, thought, answer) -> None:
    from vllm.reasoning import ReasoningParserManager

    text = f"{opening}{thought}{closing}{answer}"
    parser = ReasoningParserManager.get_reasoning_parser(name)(vllm_tokenizer())
    reasoning, content = parser.extract_reasoning(text, vllm_request())
    parts = short(read(maker(None, name), [text]))
    ours = {kind: "".join(text for one, text in parts if one == kind) for kind in ("reasoning", "content")}
    assert (ours["reasoning"].strip(), ours["content"].strip()) == ((reasoning or "").strip(), (content or "").strip())


REASONED_DIFFERENTLY = [
    # vLLM: all of it reasoning, though neither prompt nor text has opened any.
    ("qwen3", "Plain words.", [("content", "Plain words.")]),
    # vLLM: what comes before the mark is lost.
    ("deepseek_r1", "a<think>b</think>c", [("reasoning", "a<think>b"), ("content", "c")]),
    # vLLM: all of it content, mark included; its stream tells it as reasoning, as ours does.
    ("granite", "Here is my thought process: a", [("reasoning", " a")]),
]


@pytest.mark.parametrize(("name", "text", "meant"), REASONED_DIFFERENTLY)
def test_where_ours_reads_the_reasoning_that_was_meant(name, text, meant) -> None:
    from vllm.reasoning import ReasoningParserManager

    assert short(read(maker(None, name), [text])) == meant
    parser = ReasoningParserManager.get_reasoning_parser(name)(vllm_tokenizer())
    reasoning, content = parser.extract_reasoning(text, vllm_request())
    theirs = [("reasoning", reasoning), ("content", content)]
    assert [part for part in theirs if part[1]] != meant


CHANNELS = st.sampled_from(("analysis", "final", "commentary", "commentary to=functions.f <|constrain|>json"))


@given(messages=st.lists(st.tuples(CHANNELS, THOUGHT), min_size=1))
@some
def test_harmony_beside_openais_own(messages) -> None:
    from openai_harmony import HarmonyEncodingName, Role, StreamableParser, load_harmony_encoding

    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    text = "<|start|>assistant".join(f"<|channel|>{channel}<|message|>{body}<|end|>" for channel, body in messages)
    parser = StreamableParser(encoding, role=Role.ASSISTANT)
    for token in encoding.encode(text, allowed_special="all"):
        parser.process(token)
    theirs: list[tuple[str, ...]] = []
    for message in parser.messages:
        said = message.content[0].text
        kind = "f" if message.recipient else "reasoning" if message.channel == "analysis" else "content"
        theirs.append((kind, said))
    ours = short(read(maker("openai", "openai_gptoss"), [text]))
    for kind in ("reasoning", "content"):
        told = "\n".join(said for one, said in theirs if one == kind)
        # White space of the content that a call follows is not told, in any format.
        sign = str.split if kind == "content" else str
        assert sign("".join(said for one, said in ours if one == kind)) == sign(told)
    assert [part for part in ours if part[0] == "f"] == [one for one in theirs if one[0] == "f"]
