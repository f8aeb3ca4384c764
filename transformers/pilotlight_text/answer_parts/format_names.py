"""The names of the formats of calls and of reasoning: those that vLLM's flags give its parsers.

Pure, and imported by every start; the modules that the names stand for are not.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_protocol.nearest_name import did_you_mean

# Name to module and attribute, in pilotlight_text.tool_parsers and pilotlight_text.reasoning_parsers.
CALLS = {
    "deepseek_v3": "deepseek:DEEPSEEK",
    "deepseek_v31": "deepseek:DEEPSEEK",
    "granite": "marked_json:GRANITE",
    "granite-20b-fc": "marked_json:GRANITE_20B",
    "granite4": "marked_json:HERMES",
    "hermes": "marked_json:HERMES",
    "jamba": "marked_json:JAMBA",
    "llama3_json": "llama_json:LLAMA_JSON",
    "llama4_json": "llama4:LLAMA4",
    "llama4_pythonic": "llama4:LLAMA4",
    "mistral": "mistral:MISTRAL",
    "openai": "harmony:HARMONY",
    "phi4_mini_json": "marked_json:PHI4_MINI",
    "pythonic": "pythonic:PYTHONIC",
    "qwen3_coder": "qwen_xml:QWEN_XML",
    "qwen3_json": "marked_json:HERMES",
    "qwen3_xml": "qwen_xml:QWEN_XML",
}
REASONING = {
    "deepseek_r1": "marked_reasoning:DEEPSEEK_R1",
    "deepseek_v3": "marked_reasoning:QWEN3",
    "granite": "marked_reasoning:GRANITE",
    "mistral": "marked_reasoning:MISTRAL",
    "openai_gptoss": "harmony_reasoning:HARMONY",
    "qwen3": "marked_reasoning:QWEN3",
}


def known_tool_parser(name: str) -> str:
    """`name`. Raises ValueError with the names that are known."""
    return _known("tool", name, CALLS)


def known_reasoning_parser(name: str) -> str:
    return _known("reasoning", name, REASONING)


def _known(kind: str, name: str, names: Mapping[str, str]) -> str:
    if name not in names:
        known = ", ".join(sorted(names))
        raise ValueError(f"there is no {kind} parser '{name[:64]}'{did_you_mean(name, names)}; known are {known}")
    return name
