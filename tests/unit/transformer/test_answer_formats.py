"""Calls of every family from tokens to OpenAI's answer: marks that are special tokens are seen by their parser, and by
nobody else."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import written_calls as written
from fake_token_source import Answer, FakeTokenSource
from family_templates import FAMILIES
from inline_templates import InlineTemplates
from text_app import TextApp, demo_text, events_of
from tokenizers import AddedToken, Tokenizer

from pilotlight_models import bundled_model_path
from pilotlight_text.answer_parts.chosen_format import ChosenFormat
from pilotlight_text.answer_parts.format_choice import chosen_formats
from pilotlight_text.answer_parts.format_reading import marks_of
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.templates.template_sources import template_source
from pilotlight_text.text_model import library_codec

WRITERS = {
    "hermes": written.hermes,
    "qwen3_coder": written.qwen_xml,
    "llama3_json": lambda calls: "<|python_tag|>" + written.llama_json(calls),
    "pythonic": written.pythonic,
    "llama4_pythonic": lambda calls: f"<|python_start|>{written.pythonic(calls)}<|python_end|>",
    "mistral": written.mistral_named,
    "deepseek_v3": written.deepseek_v3,
    "deepseek_v31": written.deepseek_v31,
    "granite": written.granite,
    "granite4": written.hermes,
    "phi4_mini_json": written.phi,
    "openai": lambda calls: "<|channel|>analysis<|message|>So.<|end|><|start|>assistant" + written.harmony(calls),
}
CALLS: list[written.Call] = [("weather", {"city": "Zürich “am” See"}), ("weather", {"city": "</x>\n{}"})]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
BODY = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}


def app_of(family: str, text: str) -> TextApp:
    tokenizer = Tokenizer.from_file(str(bundled_model_path("demo-awq") / "tokenizer.json"))
    choice = chosen_formats([FAMILIES[family]])
    marks = marks_of(choice.calls, choice.reasoning)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    codec = library_codec(tokenizer, max_model_len=2048)
    template = ChatTemplate(
        {"default": template_source(FAMILIES[family])}, {}, InlineTemplates(), max_output_chars=10_000
    )
    chosen = ChosenFormat(choice.calls, choice.reasoning, partial(frozenset, codec.special_tokens))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    end = tokenizer.token_to_id(next(iter(codec.special_tokens.keys() - set(marks))))
    assert end is not None
    app = TextApp(FakeTokenSource(Answer([[token] for token in [*ids, end]], reason="stop")))
    app.model._model.set_loaded(replace(demo_text(), codec=codec, template=template, answer_format=chosen))
    return app


def test_every_family_is_here() -> None:
    assert set(WRITERS) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
async def test_calls_whole_and_streamed(family: str) -> None:
    app = app_of(family, WRITERS[family](CALLS))
    body = {**BODY, "tools": [TOOL]}
    (choice,) = (await app.post("/v1/chat/completions", body)).json()["choices"]
    called = [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in choice["message"]["tool_calls"]
    ]
    assert called == CALLS
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")

    streamed: dict[int, str] = {}
    for event in events_of(await app.post("/v1/chat/completions", {**body, "stream": True}))[:-1]:
        delta = event["choices"][0]["delta"]
        assert not delta.get("content")
        for call in delta.get("tool_calls", ()):
            function = call["function"]
            streamed[call["index"]] = streamed.get(call["index"], "") + function.get("name", "") + function["arguments"]
    assert [text.removeprefix("weather") for text in streamed.values()] == [
        call["function"]["arguments"] for call in choice["message"]["tool_calls"]
    ]


@pytest.mark.parametrize("family", FAMILIES)
async def test_words_alone_show_no_mark(family: str) -> None:
    said = "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Hi [there]."
    app = app_of(family, said if family == "openai" else "Hi [there].")
    for tools in ({}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "none"}):
        (choice,) = (await app.post("/v1/chat/completions", {**BODY, **tools})).json()["choices"]
        assert choice["message"]["content"] == "Hi [there]."
        assert choice["finish_reason"] == "stop"
