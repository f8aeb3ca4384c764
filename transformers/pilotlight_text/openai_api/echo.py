"""vLLM's `echo` of /chat/completions: the answer begins with the last message, where that was the assistant's. Pure."""

from __future__ import annotations

from pilotlight_text.openai_api.requests import ChatRequest


def echoed(request: ChatRequest) -> str:
    """What `echo` shows before each choice; "" for nothing. Without a
    generation prompt the last message's role answers."""
    last = request.messages[-1]
    answers = "assistant" if request.add_generation_prompt is not False else last.get("role")
    return _text(last.get("content")) if last.get("role") == answers else ""


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join([str(part.get("text", "")) for part in content if isinstance(part, dict)])
    return content if isinstance(content, str) else ""
