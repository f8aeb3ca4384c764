"""Continuing the last message: a mark where it ends, and the rendered text cut there. Pure.

Source of what counts as its end: transformers' `apply_chat_template(continue_final_message=True)`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.templates.conversation_check import Message

_MARK = "\N{OBJECT REPLACEMENT CHARACTER}continue here\N{OBJECT REPLACEMENT CHARACTER}"
_SPACED_MARK = _MARK + " "
"""The space tells whether the template trims what a message ends in: the client's own spaces are then gone, too."""


def marked(messages: Sequence[Message], sent: Message) -> tuple[list[Message], str]:
    """A copy whose last message ends in a mark, and the text to continue. Raises InvalidInput: there is none.

    `sent`: the last message as the client sent it; words that only the template's form added are nothing to continue.
    """
    last = messages[-1] if messages else {}
    content = last.get("content") if sent.get("content") is not None else None
    if isinstance(content, str):
        return [*messages[:-1], {**last, "content": content + _SPACED_MARK}], content
    for place in range(len(content or ()) - 1, -1, -1):
        if "text" in (part := content[place]):  # type: ignore[index]  # a list of parts, if it has a length
            with_mark = [*content]  # type: ignore[misc]
            with_mark[place] = {**part, "text": part["text"] + _SPACED_MARK}
            return [*messages[:-1], {**last, "content": with_mark}], part["text"]
    raise InvalidInput(
        "continue_final_message needs a last message with text content to continue", param="continue_final_message"
    )


def cut_at_mark(text: str, continued: str) -> str:
    """`text` up to the mark. Raises InvalidInput: the template does not show all of what is to be `continued`."""
    before, mark, after = text.rpartition(_MARK)
    if not mark or continued.strip() not in before:
        raise InvalidInput(
            "the model's chat template does not show the last message, so it cannot be continued",
            param="continue_final_message",
        )
    return before if after.startswith(" ") else before.rstrip()
