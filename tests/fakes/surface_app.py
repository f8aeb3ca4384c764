"""The transformer's routes over a source that says what it is told to, for tests of the surfaces above chat."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
from fake_token_source import Answer, FakeTokenSource
from text_app import TextApp, demo_ids, demo_text


def ids(text: str) -> list[int]:
    return demo_ids(text)


def saying(*texts: str, reason: Literal["stop", "length"] = "stop", cut: bool = False) -> TextApp:
    """Its answers have one batch per text, and end by themselves unless told otherwise."""
    end = [ids("<|im_end|>")] if reason == "stop" and not cut else []
    return TextApp(FakeTokenSource(Answer([*(ids(text) for text in texts), *end], reason=reason, cut=cut)))


def prompt_of(app: TextApp) -> str:
    """The text of the last prompt that the source was asked with."""
    return demo_text().codec.decode(app.source.asked[-1].input_ids)


def named_events(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON of server-sent events that have their type as name."""
    events = []
    for block in response.text.split("\n\n"):
        if block:
            name, _, data = block.partition("\n")
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            events.append(event)
    return events
