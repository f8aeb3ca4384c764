"""JSON behind marks: Hermes and its likes, whole and in pieces, and with reasoning before it."""

from __future__ import annotations

import pytest
from parts_reading import maker, read_any_way

HERMES = [
    ("hi", [("content", "hi")]),
    ("  \n", [("content", "  \n")]),
    ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [("f", '{"a": 1}')]),
    (
        'Let me look.\n<tool_call>{"name": "f", "arguments": {}}</tool_call>\n<tool_call>{"name": "g", "arguments": '
        '{"x": [1, {"y": null}]}}</tool_call>\nDone',
        [("content", "Let me look.\n"), ("f", "{}"), ("g", '{"x": [1, {"y": null}]}'), ("content", "\nDone")],
    ),
    (
        '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>{\\"}", "é": "日本"}}</tool_call>',
        [("f", '{"a": "</tool_call>{\\"}", "é": "日本"}')],
    ),
    ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [("f", '{"a": 1}')]),
    ('<tool_call>{"name": "f", "arguments": {}}}</tool_call>', [("f", "{}")]),
    ('<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call> x', [("f", '{"a": 1}'), ("content", " x")]),
    ('<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>x', [("f", '{"a": 1'), ("content", "x")]),
    ('<tool_call>{"name": "f"}</tool_call>', [("f", "{}")]),
    ('<tool_call>{"id": [1], "name": "f", "arguments": null}</tool_call>', [("f", "{}")]),
    ('<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"b\\"}"}</tool_call>', [("f", '{"a": "b"}')]),
    ('<tool_call>{"name": "f", "arguments": "word"}</tool_call>', [("f", '"word"')]),
    (
        '<tool_call>[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]</tool_call>',
        [("f", "{}"), ("g", "{}")],
    ),
    ('<tool_call>{"name": "\\u0066", "arguments": {}}</tool_call>', [("f", "{}")]),
    ('<tool_call>{"function": "f", "arguments": {"a": 1}}</tool_call>', [("f", '{"a": 1}')]),
    (
        '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {"a": {}}}}</tool_call> x',
        [("f", '{"a": {}}'), ("content", " x")],
    ),
    ('<tool_call>{"function": {"name": "f"}}</tool_call>', [("f", "{}")]),
    (
        '<tool_call>{"function": {"function": {"name": "f"}}}',
        [("content", '<tool_call>{"function": {"function": {"name": "f"}}}')],
    ),
    ('<tool_call>{"function": {"a": 1}}', [("content", '<tool_call>{"function": {"a": 1}}')]),
    # Cut anywhere: what has not begun is content, what has begun stays as it is.
    ("a <tool", [("content", "a <tool")]),
    ('<tool_call>{"name": "f", "argum', [("content", '<tool_call>{"name": "f", "argum')]),
    ('<tool_call>{"name": "f", "arguments"', [("content", '<tool_call>{"name": "f", "arguments"')]),
    ('<tool_call>{"name": "f", "arguments": ', [("f", "")]),
    ('<tool_call>{"name": "f", "arguments": {"a": "b\\', [("f", '{"a": "b\\')]),
    # No calls.
    ("<tool_call>none</tool_call>", [("content", "<tool_call>none</tool_call>")]),
    ('<tool_call>{"x": 1}</tool_call> <', [("content", '<tool_call>{"x": 1}</tool_call> <')]),
    ('<tool_call>{"name": 1, "arguments": {}}', [("content", '<tool_call>{"name": 1, "arguments": {}}')]),
    ('<tool_call><tool_call>{"name": "f", "arguments": {}}', [("content", "<tool_call>"), ("f", "{}")]),
    ("a</tool_call>b", [("content", "a</tool_call>b")]),
]


@pytest.mark.parametrize(("text", "parts"), HERMES)
def test_hermes(text, parts) -> None:
    assert read_any_way(maker("hermes"), text) == parts


THINKING = [
    ("deepseek_r1", "", "thus</think>\n\nyes", [("reasoning", "thus"), ("content", "\n\nyes")]),
    ("deepseek_r1", "", "<think>thus</think>yes", [("reasoning", "thus"), ("content", "yes")]),
    ("deepseek_r1", "…<think>\n", " thus</think>", [("reasoning", " thus")]),
    ("deepseek_r1", "", "never closed </thin", [("reasoning", "never closed </thin")]),
    ("qwen3", "", "<think>\n\n</think>\n\nyes", [("reasoning", "\n\n"), ("content", "\n\nyes")]),
    ("qwen3", "assistant\n<think>\n", "thus</think>yes", [("reasoning", "thus"), ("content", "yes")]),
    ("qwen3", "", "yes </think>", [("content", "yes </think>")]),
    ("qwen3", "", " <thi", [("content", " <thi")]),
]


@pytest.mark.parametrize(("reasoning", "prompt_end", "text", "parts"), THINKING)
def test_thinking(reasoning, prompt_end, text, parts) -> None:
    assert read_any_way(maker(None, reasoning, prompt_end), text) == parts


CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
THINKING_THEN_CALLS = [
    ("qwen3", "", f"<think>thus</think>\n\n{CALL}", [("reasoning", "thus"), ("f", '{"a": 1}')]),
    (
        "qwen3",
        "",
        f"<think>thus</think>\nso\n{CALL}",
        [("reasoning", "thus"), ("content", "\nso\n"), ("f", '{"a": 1}')],
    ),
    ("qwen3", "", f"<think>so {CALL}", [("reasoning", "so "), ("f", '{"a": 1}')]),
    ("qwen3", "<think>\n\n</think>\n\n", f"ok{CALL}", [("content", "ok"), ("f", '{"a": 1}')]),
    ("deepseek_r1", "", f"a {CALL} b</think>{CALL}", [("reasoning", f"a {CALL} b"), ("f", '{"a": 1}')]),
    ("deepseek_r1", "", "<think>a</think>\n\nb", [("reasoning", "a"), ("content", "\n\nb")]),
    ("deepseek_r1", "", "<think>a</think><tool_c", [("reasoning", "a"), ("content", "<tool_c")]),
]


@pytest.mark.parametrize(("reasoning", "prompt_end", "text", "parts"), THINKING_THEN_CALLS)
def test_thinking_then_calls(reasoning, prompt_end, text, parts) -> None:
    assert read_any_way(maker("hermes", reasoning, prompt_end), text) == parts
