"""Which formats a model's answers have: as the operator says, else as its chat template writes them.

Pure. A template has to write the calls and the reasoning of earlier turns, so it holds their marks.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class FormatChoice(msgspec.Struct, frozen=True):
    """Names of format_names; `why` is for the log."""

    calls: str | None
    reasoning: str | None
    why: str


class NamedParsers(msgspec.Struct, frozen=True):
    """What the operator names, in place of what the template says."""

    calls: str | None = None
    reasoning: str | None = None


AS_THE_TEMPLATE_SAYS = NamedParsers()


class _Sign(msgspec.Struct, frozen=True):
    """A format is the template's when all of these texts stand in it; None: one that is not known here."""

    format: str | None
    texts: tuple[str, ...]


# The first that fits: what is told apart by more comes first.
_CALLS = (
    _Sign(None, ("<tool_call>", "<arg_key>")),  # GLM 4.5
    _Sign(None, ("<tool_call>", "<tool_sep>")),  # Hunyuan
    _Sign("openai", ("<|channel|>", "functions.")),
    _Sign("deepseek_v3", ("<｜tool▁calls▁begin｜>", "```json")),
    _Sign("deepseek_v31", ("<｜tool▁calls▁begin｜>",)),
    _Sign("qwen3_coder", ("<function=", "<parameter=")),
    _Sign("mistral", ("[TOOL_CALLS]",)),
    _Sign("llama4_pythonic", ("<|header_start|>", "func_name1(")),
    _Sign("llama4_json", ("<|header_start|>", "tools")),
    _Sign("pythonic", ("func_name1(",)),
    _Sign("llama3_json", ("<|start_header_id|>", "tools")),
    _Sign("phi4_mini_json", ("<|tool|>", "<|/tool|>")),
    _Sign("granite4", ("<|start_of_role|>", "</tool_call>")),
    _Sign("granite", ("<|start_of_role|>", "tool")),
    _Sign("granite-20b-fc", ("<function_call>",)),
    _Sign("jamba", ("<|bom|>", "<tool_calls>")),
    _Sign("hermes", ("<tool_call>",)),
)
_REASONING = (
    _Sign("openai_gptoss", ("<|channel|>",)),
    _Sign("mistral", ("[THINK]",)),
    _Sign("granite", ("Here is my thought process:",)),
    _Sign("deepseek_v3", ("<｜Assistant｜>", "</think>", "thinking")),
    _Sign("deepseek_r1", ("<｜Assistant｜>", "</think>")),
    _Sign("qwen3", ("</think>",)),
)


def chosen_formats(templates: Iterable[str], parsers: NamedParsers = AS_THE_TEMPLATE_SAYS) -> FormatChoice:
    """`templates`: the sources of the model's chat templates."""
    source = "\n".join(templates)
    calls, why_calls = _choice(_CALLS, source, parsers.calls)
    reasoning, why_reasoning = _choice(_REASONING, source, parsers.reasoning)
    return FormatChoice(calls, reasoning, f"calls: {why_calls}; reasoning: {why_reasoning}")


def _choice(signs: Iterable[_Sign], source: str, named: str | None) -> tuple[str | None, str]:
    if named is not None:
        return named, f"{named}, as the command line says"
    for sign in signs:
        if all(text in source for text in sign.texts):
            marks = " and ".join(repr(text) for text in sign.texts)
            return sign.format, f"{sign.format or 'none that is known'}, since the chat template has {marks}"
    return None, "none, since the chat template has the marks of none"
