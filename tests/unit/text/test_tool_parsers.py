"""Every format of calls, whole and in pieces: what is a call, what is content, what becomes of a text that is cut."""

from __future__ import annotations

import pytest
from parts_reading import Function, maker, read_any_way

LLAMA = [
    ('{"name": "f", "parameters": {"a": "1"}}', [("f", '{"a": "1"}')]),
    ('<|python_tag|>{"name": "f", "parameters": {}}', [("f", "{}")]),
    (
        '{"name": "f", "arguments": {"a": {"b": []}}}; {"name": "g", "parameters": {}}',
        [("f", '{"a": {"b": []}}'), ("g", "{}")],
    ),
    (
        '{"type": "function", "name": "f", "parameters": {}};<|python_tag|>{"name": "g", "parameters": {}}\n',
        [("f", "{}"), ("g", "{}")],
    ),
    ('Sure:\n{"name": "f", "parameters": {"s": "} \\" ; é"}}', [("content", "Sure:"), ("f", '{"s": "} \\" ; é"}')]),
    ('{"name": "f", "parameters": {}} done', [("f", "{}"), ("content", " done")]),
    ('{"name": "Bob", "age": 3}\nx {', [("content", '{"name": "Bob", "age": 3}\nx {')]),
    ('{"a": {"name": "f", "parameters": {}}}', [("content", '{"a": {"name": "f", "parameters": {}}}')]),
    ('say {"name": "f", "parameters": {}}', [("content", 'say {"name": "f", "parameters": {}}')]),
    ('{"name": "f"}', [("content", '{"name": "f"}')]),
    ('<|python_tag|>search.call(query="x")', [("content", '<|python_tag|>search.call(query="x")')]),
    ('{"name": "f", "parameters": {"a": "b', [("f", '{"a": "b')]),
    ("one\ntwo\n\n", [("content", "one\ntwo\n\n")]),
    ("<|python_tag|>", [("content", "<|python_tag|>")]),
    (" {", [("content", " {")]),
]

PYTHONIC = [
    ("[f()]", [("f", "{}")]),
    ('[f(a=1, b="x"), g(c=-1.5)]', [("f", '{"a": 1, "b": "x"}'), ("g", '{"c": -1.5}')]),
    ("[a.b(x=True, y=None, z=false)]", [("a.b", '{"x": true, "y": null, "z": false}')]),
    (
        "[f(a=[1, 'two', (3, 4)], b={'k': {'n': []}, 1: 2})]",
        [("f", '{"a": [1, "two", [3, 4]], "b": {"k": {"n": []}, "1": 2}}')],
    ),
    ("[f(a={'x', 'y'}, b={})]", [("f", '{"a": ["x", "y"], "b": {}}')]),
    (
        "[f(a='it\\'s', b=\"a\\tb\\\"c\", c='日本\\u00e9\\x41\\101')]",
        [("f", '{"a": "it\'s", "b": "a\\tb\\"c", "c": "日本éAA"}')],
    ),
    ("[f(a='it's late, [x]')]", [("f", '{"a": "it\'s late, [x]"}')]),
    ('[f(a="""one\n"two" three""", b=\'x\' "y")]', [("f", '{"a": "one\\n\\"two\\" three", "b": "xy"}')]),
    ("[f(a='', b=\"\")]", [("f", '{"a": "", "b": ""}')]),
    (
        "[f(a=007, b=1_000, c=0x10, d=.5, e=1e3, g=+3)]",
        [("f", '{"a": 7, "b": 1000, "c": 16, "d": 0.5, "e": 1e3, "g": 3}')],
    ),
    ("[f(a=g(1, 'x)'), b=2)]", [("f", '{"a": "g(1, \'x)\')", "b": 2}')]),
    ("[f(a='\\ud83d\\ude00', b='\\d')]", [("f", '{"a": "\\ud83d\\ude00", "b": "\\\\d"}')]),
    ("[f(\n  a = 1,\n)\n]\nbye", [("f", '{"a": 1}'), ("content", "\nbye")]),
    ("[1] see (a)", [("content", "[1] see (a)")]),
    ("[see(a) x]", [("content", "[see(a) x]")]),
    ("say [f(a=1)]", [("content", "say [f(a=1)]")]),
    ('["a", "b"]', [("content", '["a", "b"]')]),
    ("[f(a=1), 2]", [("f", '{"a": 1}'), ("content", ", 2]")]),
    ("[f(a='b", [("f", '{"a": "b')]),
    ("[f(a='b\\", [("f", '{"a": "b')]),
    ("[f(a=[1, 2", [("f", '{"a": [1, 2')]),
    ("[f(", [("content", "[f(")]),
]

LLAMA4 = [
    ("<|python_start|>[a.b(x=True), f()]<|python_end|>", [("a.b", '{"x": true}'), ("f", "{}")]),
    ("[f(a=1)]", [("f", '{"a": 1}')]),
    ('<|python_start|>{"name": "f", "parameters": {}}<|python_end|>', [("f", "{}")]),
    (
        'Hm.<|python_start|>{"name": "f", "parameters": {}}{"name": "g", "parameters": {}}<|python_end|>',
        [("content", "Hm."), ("f", "{}"), ("g", "{}")],
    ),
    ('{"name": "f", "parameters": {"a": "x"}}; {"name": "g", "parameters": {}}', [("f", '{"a": "x"}'), ("g", "{}")]),
    ("<|python_start|>words<|python_end|>", [("content", "<|python_start|>words<|python_end|>")]),
    ("<|python_start|>[f(a='b", [("f", '{"a": "b')]),
    (" [1]", [("content", " [1]")]),
    ("<|python", [("content", "<|python")]),
]

MISTRAL = [
    (
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    ('[TOOL_CALLS] [{"arguments": {"a": 1}, "name": "f", "id": "abcdefghi"}]', [("f", '{"a": 1}')]),
    (
        'ok[TOOL_CALLS]f[ARGS]{"a": "[TOOL_CALLS]"}[TOOL_CALLS]g[ARGS]{}',
        [("content", "ok"), ("f", '{"a": "[TOOL_CALLS]"}'), ("g", "{}")],
    ),
    ('[TOOL_CALLS]f[CALL_ID]x1[ARGS]{"a": 1}', [("f", '{"a": 1}')]),
    ('[TOOL_CALLS]my-f{"a": 1}', [("my-f", '{"a": 1}')]),
    ("[TOOL_CALLS]f[ARGS]", [("f", "")]),
    ('[TOOL_CALLS]f[ARGS]{"a": {"b', [("f", '{"a": {"b')]),
    ("[TOOL_CALLS]f[AR", [("content", "[TOOL_CALLS]f[AR")]),
    ("[TOOL_CALLS]no call", [("content", "[TOOL_CALLS]no call")]),
    ("[TOOL_CALLS][]", [("content", "[TOOL_CALLS][]")]),
    ("[TOOL", [("content", "[TOOL")]),
]

OPEN, CLOSE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
BEGIN, END, SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
DEEPSEEK = [
    (
        f'ok{OPEN}{BEGIN}function{SEP}f\n```json\n{{"a": "```"}}\n```{END}{CLOSE}',
        [("content", "ok"), ("f", '{"a": "```"}')],
    ),
    (
        f"{OPEN}{BEGIN}function{SEP}f\n```json\n{{}}\n```{END}\n{BEGIN}function{SEP}g\n```json\n{{\n}}\n```{END}{CLOSE}",
        [("f", "{}"), ("g", "{\n}")],
    ),
    (f'{OPEN}{BEGIN}f{SEP}{{"a": 1}}{END}{BEGIN}g{SEP}{{}}{END}{CLOSE}', [("f", '{"a": 1}'), ("g", "{}")]),
    (f"{OPEN}{BEGIN}f{SEP}{{}}{END}{CLOSE} more", [("f", "{}"), ("content", " more")]),
    (f'{OPEN}{BEGIN}f{SEP}{{"a": ', [("f", '{"a": ')]),
    (f"{OPEN}{BEGIN}function{SEP}f\n```js", [("content", f"{OPEN}{BEGIN}function{SEP}f\n```js")]),
    (f"{OPEN}hm{CLOSE}", [("content", f"{OPEN}hm{CLOSE}")]),
]

GRANITE = [
    (
        '<|tool_call|>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    ('a <tool_call> [{"name": "f", "arguments": {}}] b', [("content", "a "), ("f", "{}"), ("content", "b")]),
]
GRANITE_20B = [
    (
        '<function_call> {"name": "f", "arguments": {}}\n<function_call> {"name": "g", "arguments": {"a": 1}}',
        [("f", "{}"), ("g", '{"a": 1}')],
    ),
]
JAMBA = [('a<tool_calls>[{"name": "f", "arguments": {}}]</tool_calls>', [("content", "a"), ("f", "{}")])]
PHI = [
    ('functools[{"name": "f", "arguments": {"a": [1]}}]', [("f", '{"a": [1]}')]),
    ('<|tool_call|>[{"name": "f", "parameters": {}}]<|/tool_call|>', [("f", "{}")]),
    ("from functools import cache; functools[0]", [("content", "from functools import cache; functools[0]")]),
]

FORMATS = {
    "llama3_json": LLAMA,
    "pythonic": PYTHONIC,
    "llama4_json": LLAMA4,
    "jamba": JAMBA,
    "mistral": MISTRAL,
    "deepseek_v3": DEEPSEEK,
    "granite": GRANITE,
    "granite-20b-fc": GRANITE_20B,
    "phi4_mini_json": PHI,
}
CASES = [(name, text, parts) for name, cases in FORMATS.items() for text, parts in cases]


@pytest.mark.parametrize(("name", "text", "parts"), CASES)
def test_format(name, text, parts) -> None:
    assert read_any_way(maker(name), text) == parts


TYPES = {
    "s": {"type": "string"},
    "i": {"type": "integer"},
    "n": {"type": "number"},
    "b": {"type": "boolean"},
    "o": {"type": "object"},
    "l": {"type": "array"},
    "u": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "r": {"$ref": "#/$defs/R"},
    "e": {"enum": [1, 2]},
}
WRITER = Function("f", {"properties": TYPES, "$defs": {"R": {"type": "object"}}})


def xml(*parameters: tuple[str, str]) -> str:
    return (
        "<tool_call>\n<function=f>\n"
        + "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in parameters)
        + "</function>\n</tool_call>"
    )


QWEN_XML = [
    ("ok " + xml(), [("content", "ok "), ("f", "{}")]),
    (xml(("s", "x")), [("f", '{"s": "x"}')]),
    (xml(("s", 'def f():\n\treturn "<a>"\n')), [("f", '{"s": "def f():\\n\\treturn \\"<a>\\"\\n"}')]),
    (xml(("s", "")), [("f", '{"s": ""}')]),
    (xml(("s", "7"), ("i", "7"), ("n", "7.5"), ("b", "True")), [("f", '{"s": "7", "i": 7, "n": 7.5, "b": true}')]),
    (
        xml(("o", '{"a": [1]}'), ("l", "[\n1,\n2]"), ("r", '{"z": 1}')),
        [("f", '{"o": {"a": [1]}, "l": [1, 2], "r": {"z": 1}}')],
    ),
    (
        xml(("u", "null"), ("i", "many"), ("n", "nan"), ("x", "7")),
        [("f", '{"u": null, "i": "many", "n": "nan", "x": "7"}')],
    ),
    (xml(("e", "2")), [("f", '{"e": 2}')]),
    (xml(("s", "a")) + "\n" + xml(("i", "1")) + " end", [("f", '{"s": "a"}'), ("f", '{"i": 1}'), ("content", " end")]),
    ("<function=f><parameter=i>1</parameter></function>", [("f", '{"i": 1}')]),
    ("<function=f><parameter=i>1<parameter=s>x</function></tool_call>", [("f", '{"i": 1, "s": "x"}')]),
    ("<tool_call>\n<function=f>\n<parameter=s>\nab", [("f", '{"s": "ab')]),
    ("<tool_call>\n<function=f>\n<parameter=s>\nab\n", [("f", '{"s": "ab\\n')]),
    ("<tool_call>\n<function=f>\n<param", [("f", "")]),
    ("<tool_call>\n<function=f", [("content", "<tool_call>\n<function=f")]),
    ("<tool_call>{}</tool_call> <func", [("content", "<tool_call>{}</tool_call> <func")]),
]


@pytest.mark.parametrize(("text", "parts"), QWEN_XML)
def test_qwen_xml(text, parts) -> None:
    assert read_any_way(maker("qwen3_coder", tools=(WRITER,)), text) == parts


C, M, E, S = "<|channel|>", "<|message|>", "<|end|>", "<|start|>"
HARMONY = [
    (f"{C}analysis{M}thus{E}{S}assistant{C}final{M}yes", [("reasoning", "thus"), ("content", "yes")]),
    (
        f'{C}analysis{M}a{E}{S}assistant{C}commentary to=functions.f <|constrain|>json{M}{{"a": "<"}}<|call|>',
        [("reasoning", "a"), ("f", '{"a": "<"}')],
    ),
    (f"{S}assistant to=functions.f{C}commentary json{M}{{}}", [("f", "{}")]),
    (f" to=functions.f{C}commentary<|constrain|>json{M}<|call|>", [("f", "{}")]),
    (
        f"{C}commentary{M}I will look.{E}{S}assistant{C}commentary to=f{M}{{}}",
        [("content", "I will look."), ("f", "{}")],
    ),
    (f"{C}analysis{M}a{E}{C}analysis{M}b{E}{C}final{M}c{E}{C}final{M}d", [("reasoning", "a\nb"), ("content", "c\nd")]),
    (f"{C}analysis to=python code{M}1+1<|call|>", [("reasoning", "1+1")]),
    (f"{C}analysis{M}never ended <|en", [("reasoning", "never ended <|en")]),
    (f"{C}analysis{M}a{S}assistant{C}final{M}b", [("reasoning", "a"), ("content", "b")]),
    ("plain words", [("content", "plain words")]),
    (f"plain{C}final{M}x", [("content", "plain\nx")]),
    (f"{C}comm", [("content", f"{C}comm")]),
]


@pytest.mark.parametrize(("text", "parts"), HARMONY)
def test_harmony(text, parts) -> None:
    assert read_any_way(maker("openai", "openai_gptoss"), text) == parts


REASONING = [
    ("mistral", "[THINK]thus[/THINK]yes", [("reasoning", "thus"), ("content", "yes")]),
    ("mistral", "yes [THINK]", [("content", "yes [THINK]")]),
    ("granite", "Here is my thought process: a Here is my response: b", [("reasoning", " a "), ("content", " b")]),
    ("granite", "Here's my thought process: a Here's my res", [("reasoning", " a Here's my res")]),
    ("granite", "Here is my dog", [("content", "Here is my dog")]),
    ("openai_gptoss", f"{C}analysis{M}a{E}{S}assistant{C}final{M}b", [("reasoning", "a"), ("content", "b")]),
    ("deepseek_v3", "no thoughts</think>", [("content", "no thoughts</think>")]),
]


@pytest.mark.parametrize(("name", "text", "parts"), REASONING)
def test_reasoning(name, text, parts) -> None:
    assert read_any_way(maker(None, name), text) == parts
