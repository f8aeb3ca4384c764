"""Calls as the models of each family write them, and strategies for what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Call = tuple[str, dict[str, Any]]
Writer = Callable[[list[Call]], str]

NASTY = (
    "</tool_call>",
    "<tool_call>",
    "</parameter>x",
    '\\"',
    "\\",
    "}",
    "]}",
    "{",
    "\n```",
    "日本",
    "😀",
    "'",
    '"""',
    "; ",
    "[ARGS]",
)


def _json(calls: list[Call], key: str) -> list[str]:
    return [json.dumps({"name": name, key: arguments}, ensure_ascii=False) for name, arguments in calls]


def hermes(calls: list[Call]) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in _json(calls, "arguments"))


def llama_json(calls: list[Call]) -> str:
    return "; ".join(_json(calls, "parameters"))


def granite(calls: list[Call]) -> str:
    return f"<|tool_call|>[{', '.join(_json(calls, 'arguments'))}]"


def granite_20b(calls: list[Call]) -> str:
    return "\n".join(f"<function_call> {call}" for call in _json(calls, "arguments"))


def phi(calls: list[Call]) -> str:
    return f"functools[{', '.join(_json(calls, 'arguments'))}]"


def mistral_list(calls: list[Call]) -> str:
    return f"[TOOL_CALLS][{', '.join(_json(calls, 'arguments'))}]"


def mistral_named(calls: list[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}" for name, arguments in calls)


def deepseek_v3(calls: list[Call]) -> str:
    written = (
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{json.dumps(arguments)}\n```<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{chr(10).join(written)}<｜tool▁calls▁end｜>"


def deepseek_v31(calls: list[Call]) -> str:
    written = (
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{json.dumps(arguments)}<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{''.join(written)}<｜tool▁calls▁end｜>"


def pythonic(calls: list[Call]) -> str:
    def call(name: str, arguments: dict[str, Any]) -> str:
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"

    return f"[{', '.join(call(*one) for one in calls)}]"


def harmony(calls: list[Call]) -> str:
    return "<|start|>assistant".join(
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{json.dumps(arguments)}<|call|>"
        for name, arguments in calls
    )


def qwen_xml(calls: list[Call]) -> str:
    """All values are texts."""

    def parameter(name: str, value: str) -> str:
        return f"<parameter={name}>\n{value}\n</parameter>\n"

    def call(name: str, arguments: dict[str, Any]) -> str:
        parameters = "".join(parameter(*one) for one in arguments.items())
        return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"

    return "\n".join(call(*one) for one in calls)


WRITERS: dict[str, Writer] = {
    "hermes": hermes,
    "llama3_json": llama_json,
    "granite": granite,
    "granite-20b-fc": granite_20b,
    "phi4_mini_json": phi,
    "deepseek_v3": deepseek_v3,
    "deepseek_v31": deepseek_v31,
    "pythonic": pythonic,
    "openai": harmony,
}
"""By the name of the format, where values may be of any type."""

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)


def texts(*without: str) -> st.SearchStrategy[str]:
    plain = st.text(st.characters(codec="utf-8"), max_size=8)
    nasty = [text for text in NASTY if not any(mark in text for mark in without)]
    pieces = st.lists(st.one_of(plain, st.sampled_from(nasty)), max_size=4).map("".join)
    return pieces.filter(lambda text: not any(mark in text for mark in without))


def values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    numbers = st.one_of(st.integers(-(10**9), 10**9), st.sampled_from((0.5, -2.25, 1e20)))
    leaf = st.one_of(st.none(), st.booleans(), numbers, text)
    return st.recursive(
        leaf, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3))
    )


def calls(value: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Call]]:
    return st.lists(st.tuples(NAMES, st.dictionaries(NAMES, value, max_size=3)), min_size=1, max_size=3)
