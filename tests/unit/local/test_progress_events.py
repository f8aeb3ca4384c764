"""A whole answer as the one event of a stream that showed progress, in the words of who asks at that path."""

from __future__ import annotations

import json

import pytest

from pilotlight_local.ingress.progress import _as_event
from pilotlight_protocol.error_bodies import ErrorStyle

ANTHROPICS = {"type": "error", "error": {"type": "overloaded_error", "message": "full"}}
OPENAIS = {"error": {"message": "full", "type": "x", "param": None, "code": None}}


@pytest.mark.parametrize(
    ("style", "body", "name"),
    [
        ("v2", {"error": "full"}, ""),
        ("openai", {"error": "full"}, ""),
        ("openai", OPENAIS, ""),
        ("anthropic", {"error": "full"}, "event: error\n"),
        ("anthropic", ANTHROPICS, "event: error\n"),
    ],
)
def test_an_error_has_the_shape_of_its_route(style: ErrorStyle, body: object, name: str) -> None:
    event = _as_event(503, json.dumps(body).encode(), style).decode()
    assert event.startswith(f"{name}data: ")
    assert event.endswith("\n\n")
    told = json.loads(event.removeprefix(name).removeprefix("data: "))
    message = told["error"] if style == "v2" else told["error"]["message"]
    assert message == "full"
    assert (told.get("type") == "error") is (style == "anthropic")


def test_an_answer_is_passed_on() -> None:
    assert _as_event(200, b'{"a": 1}', "anthropic") == b'data: {"a": 1}\n\n'
