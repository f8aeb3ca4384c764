"""What the engine holds an answer to, put together: reasoning first, then a format, or calls, or either. Pure.

Elements are xgrammar's structural tags. How a constraint is enforced is the engine's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pilotlight_protocol.structured_outputs import StructuredOutputs
from pilotlight_text.answer_parts.answer_format import AnswerFormat
from pilotlight_text.answer_parts.parts import ReasoningText

Element = dict[str, Any]

ANSWER_WHITESPACE, CALL_WHITESPACE = 32, 2
"""In a row, in JSON: of an answer, which may be indented, and of a call's arguments. Without a bound a small model may
write nothing else until its length ends it."""

_SPACE: Element = {"type": "regex", "pattern": r"[ \n]{0,4}"}


def json_element(schema: Mapping[str, Any] | bool, whitespace: int = ANSWER_WHITESPACE) -> Element:
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": whitespace}


def tag(begin: str, content: Element, end: str) -> Element:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def element_of(outputs: StructuredOutputs) -> Element | None:
    """None: it cannot stand behind something else."""
    kind, text = outputs.constraint
    if kind == "json":
        return json_element(json.loads(text))
    if kind == "json_object":
        return json_element({"type": "object"})
    if kind == "regex":
        return {"type": "regex", "pattern": text}
    if kind == "choice":
        return any_of([{"type": "const_string", "value": choice} for choice in json.loads(text)])
    if kind == "grammar":
        return {"type": "grammar", "grammar": text}
    element = json.loads(text).get("format")
    return element if isinstance(element, dict) else None


def structural_tag(element: Element) -> StructuredOutputs:
    """Raises ValueError: it is too large."""
    made = json.dumps({"type": "structural_tag", "format": element})
    try:
        return StructuredOutputs(structural_tag=made)
    except ValueError as error:
        raise ValueError(str(error)) from None


def reasoning_left(answer_format: AnswerFormat | None, prompt_end: str) -> Literal["none", "open", "unsaid"]:
    """Whether the answer starts with reasoning, which the prompt has opened or not; asked of the parser itself."""
    if answer_format is None or not answer_format.reasons:
        return "none"
    parser = answer_format.parser((), calls=False, prompt_end=prompt_end)
    if parser is None:
        return "none"
    parts = [*parser.push("x"), *parser.finish()]
    return "open" if any(isinstance(part, ReasoningText) for part in parts) else "unsaid"


def after_reasoning(element: Element, answer_format: AnswerFormat | None, prompt_end: str) -> Element | None:
    """`element` behind the reasoning, None where the model does not reason first.

    Nor does it where its marks are special tokens: no grammar over text lets them through.
    """
    left = reasoning_left(answer_format, prompt_end)
    if answer_format is None or left == "none" or answer_format.shows_special_tokens:
        return None
    marks = answer_format.reasoning_marks
    if marks is None:
        return None
    opening, closing = marks
    thought = tag("" if left == "open" else opening, {"type": "any_text"}, closing)
    behind: Element = {"type": "sequence", "elements": [thought, _SPACE, element]}
    return behind if left == "open" else {"type": "or", "elements": [behind, element]}


def any_of(elements: Sequence[Element]) -> Element:
    return elements[0] if len(elements) == 1 else {"type": "or", "elements": list(elements)}
