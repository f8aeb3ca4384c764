"""The shapes of errors, and which one a path gets."""

from __future__ import annotations

import json

import pytest

from pilotlight_protocol.error_bodies import ErrorStyle, error_body, error_event, style_of_path
from pilotlight_protocol.errors import InvalidInput

ERROR = InvalidInput("'n' is wrong", param="n")


def test_shapes() -> None:
    assert json.loads(error_body(ERROR, "v2")) == {"error": "'n' is wrong"}
    assert json.loads(error_body(ERROR, "openai")) == {
        "error": {"message": "'n' is wrong", "type": "invalid_request_error", "param": "n", "code": 400}
    }
    assert json.loads(error_event(ERROR, "v2").removeprefix(b"data: ")) == {"error": "'n' is wrong", "status": 400}
    assert json.loads(error_event(ERROR, "openai").removeprefix(b"data: "))["error"]["code"] == 400
    assert error_event(ERROR, "v2").endswith(b"\n\n")


@pytest.mark.parametrize(
    ("path", "style"),
    [
        ("/openai/v1/models", "openai"),
        ("/v1/chat/completions", "openai"),
        ("/v2/models/m/infer", "v2"),
        ("/v1", "v2"),
        ("/", "v2"),
    ],
)
def test_style_of_a_path(path: str, style: ErrorStyle) -> None:
    assert style_of_path(path) == style
