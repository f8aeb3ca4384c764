"""Which parsers a chat template asks for, and what they need of the tokenizer."""

from __future__ import annotations

import json

import pytest
from family_templates import FAMILIES
from parts_reading import maker, read_any_way
from template_styles import SPECIAL_TOKENS, STYLES, source_of

from pilotlight_text.answer_parts.chosen_format import ChosenFormat
from pilotlight_text.answer_parts.format_choice import NamedParsers, chosen_formats
from pilotlight_text.answer_parts.format_names import CALLS, REASONING
from pilotlight_text.answer_parts.formats import CallFormat, ReasoningFormat
from pilotlight_text.answer_parts.known_formats import call_format, reasoning_format
from pilotlight_text.templates.jinja_template import compiled
from pilotlight_text.templates.template_probes import probed

# What tells them apart in the templates that come with the models.
TEMPLATES = [
    ("{{ messages[0].content }}", None, None),
    ("<|im_start|> {{ '<tool_call>' }} … </tool_call>", "hermes", None),
    ("<|im_start|>assistant <think>\n\n</think>\n\n <tool_call></tool_call> enable_thinking", "hermes", "qwen3"),
    ("<tool_call>\n<function=example>\n<parameter=p>\nv\n</parameter></function></tool_call>", "qwen3_coder", None),
    (
        '<|start_header_id|> tools_in_user_message {"name": function name, "parameters": …} <|python_tag|>',
        "llama3_json",
        None,
    ),
    ("<|header_start|> tools [func_name1(params_name1=params_value1)] <|python_start|>", "llama4_pythonic", None),
    ("<|start_header_id|> tools [func_name1(params_name1=params_value1)]", "pythonic", None),
    ("[INST] [AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral", None),
    ("[INST] [TOOL_CALLS] [ARGS] [THINK] [/THINK]", "mistral", "mistral"),
    ("<｜Assistant｜><think>\n </think> <｜tool▁calls▁begin｜> ```json", "deepseek_v3", "deepseek_r1"),
    ("<｜Assistant｜> thinking <think> </think> <｜tool▁calls▁begin｜> <｜tool▁sep｜>", "deepseek_v31", "deepseek_v3"),
    ("<|start_of_role|> <|tool_call|> Here is my thought process:", "granite", "granite"),
    ("<|start_of_role|> <tool_call> </tool_call>", "granite4", None),
    ("<|system|> <|tool|> <|/tool|> <|end|>", "phi4_mini_json", None),
    ("<|start|>assistant<|channel|>analysis to=functions.f <|message|>", "openai", "openai_gptoss"),
]


@pytest.mark.parametrize(("template", "calls", "reasoning"), TEMPLATES)
def test_the_template_says_it(template, calls, reasoning) -> None:
    choice = chosen_formats([template])
    assert (choice.calls, choice.reasoning) == (calls, reasoning)


def test_the_operator_says_it() -> None:
    choice = chosen_formats(["<tool_call>", "</think>"], NamedParsers("mistral"))
    assert (choice.calls, choice.reasoning) == ("mistral", "qwen3")
    assert choice.why == (
        "calls: mistral, as the command line says; reasoning: qwen3, since the chat template has '</think>'"
    )


def test_every_name_has_its_module() -> None:
    assert all(isinstance(call_format(name), CallFormat) for name in CALLS)
    assert all(isinstance(reasoning_format(name), ReasoningFormat) for name in REASONING)


def test_marks_that_are_special_tokens_are_asked_for() -> None:
    special = frozenset({"<|im_end|>", "[TOOL_CALLS]", "</think>"})
    assert ChosenFormat("mistral", None, lambda: special).shows_special_tokens
    assert ChosenFormat("hermes", "qwen3", lambda: special).shows_special_tokens
    assert not ChosenFormat("hermes", None, lambda: special).shows_special_tokens


def test_without_calls_there_may_be_nothing_to_read() -> None:
    assert ChosenFormat("hermes", None).parser((), calls=False, prompt_end="") is None
    assert ChosenFormat(None, "qwen3").parser((), calls=True, prompt_end="<think>\n\n</think>\n\n") is None
    assert ChosenFormat("hermes", "qwen3").reasoning_marks == ("<think>", "</think>")
    assert ChosenFormat("hermes", None).reasoning_marks is None


def call_written_by(source: str) -> str:
    """How a template writes a call, behind the prompt."""
    template = compiled(source)

    def render(context: dict[str, object]) -> str | None:
        try:
            return template.render({**SPECIAL_TOKENS, **context})
        except Exception:  # whatever the template does not expect
            return None

    traits = probed(render)
    return str(traits["call_text"]).removeprefix(traits["generation_prompt"])


def reads_the_call(calls: str, written: str) -> bool:
    parts = read_any_way(maker(calls), written)
    called = [(name, json.loads(said)) for name, said in parts if name not in ("content", "reasoning")]
    return called == [("probe_function", {"probe_key": "probe value"})]


@pytest.mark.parametrize("calls", FAMILIES)
def test_what_a_template_writes_is_read_by_the_parser_it_asks_for(calls) -> None:
    assert chosen_formats([FAMILIES[calls]]).calls == calls
    assert reads_the_call(calls, call_written_by(FAMILIES[calls]))


# Of the templates in tests/fakes/chat_templates that write calls.
STYLES_WITH_CALLS = {
    "command-r7b": None,
    "deepseek-r1": "deepseek_v3",
    "deepseek-v3": "deepseek_v3",
    "deepseek-v3.1": "deepseek_v31",
    "functionary": None,
    "glm-4": None,
    "glm-4.5": None,
    "gpt-oss": "openai",
    "granite-3": "granite",
    "hermes": "hermes",
    "jamba": "jamba",
    "kimi-k2": None,
    "llama-3.1": "llama3_json",
    "llama-4": "llama4_json",
    "mistral-tekken": "mistral",
    "mistral-v3": "mistral",
    "nemotron": None,
    "parts-with-text-tools": None,
    "qwen-2.5": "hermes",
    "qwen-3": "hermes",
    "qwen-3-coder": "qwen3_coder",
    "qwen-3.6": "qwen3_coder",
    "qwq": "hermes",
    "strict-roles": None,
}


def test_every_style_that_writes_calls_is_here() -> None:
    assert {name for name, style in STYLES.items() if style.calls} == set(STYLES_WITH_CALLS)


@pytest.mark.parametrize(("style", "calls"), STYLES_WITH_CALLS.items())
def test_the_styles_of_public_families(style, calls) -> None:
    source = source_of(style)
    assert chosen_formats([source]).calls == calls
    assert calls is None or reads_the_call(calls, call_written_by(source))


@pytest.mark.parametrize("mark", ["<arg_key>", "<tool_sep>"])
def test_a_format_that_only_looks_like_one_of_these_is_none(mark) -> None:
    assert chosen_formats([f"<tool_call>{{name}}{mark}</tool_call>"]).calls is None
