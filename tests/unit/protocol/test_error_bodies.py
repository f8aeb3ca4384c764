"""The shapes of errors, and which one a path gets."""

from __future__ import annotations

import json

import pytest

from pilotlight_protocol.error_bodies import ErrorStyle, error_body, error_event, style_of_path
from pilotlight_protocol.errors import BY_STATUS, ContextLengthExceeded, InvalidInput, ModelNotFound, from_status

ERROR = InvalidInput("'n' is wrong", param="n")


def test_shapes() -> None:
    assert json.loads(error_body(ERROR, "v2")) == {"error": "'n' is wrong"}
    assert json.loads(error_body(ERROR, "openai")) == {
        "error": {"message": "'n' is wrong", "type": "invalid_request_error", "param": "n", "code": None}
    }
    assert json.loads(error_event(ERROR, "v2").removeprefix(b"data: ")) == {"error": "'n' is wrong", "status": 400}
    assert json.loads(error_event(ERROR, "openai").removeprefix(b"data: "))["error"]["code"] is None
    assert error_event(ERROR, "v2").endswith(b"\n\n")
    anthropic = {"type": "error", "error": {"type": "invalid_request_error", "message": "'n' is wrong"}}
    assert json.loads(error_body(ERROR, "anthropic")) == anthropic
    name, _, data = error_event(ERROR, "anthropic").partition(b"\n")
    assert (name, json.loads(data.removeprefix(b"data: "))) == (b"event: error", anthropic)


def test_a_code_is_a_word_of_openai_or_null_and_never_a_number() -> None:
    codes = {
        status: json.loads(error_body(from_status(status, "why"), "openai"))["error"]["code"] for status in BY_STATUS
    }
    assert {status: code for status, code in codes.items() if code is not None} == {
        401: "invalid_api_key",
        404: "model_not_found",
        429: "rate_limit_exceeded",
    }
    assert json.loads(error_body(ModelNotFound("no", param="model"), "openai"))["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


@pytest.mark.parametrize(("max_tokens", "asked"), [(None, 101), (28, 128)])
def test_too_long_a_context_is_told_as_clients_recognise_it(max_tokens: int | None, asked: int) -> None:
    error = ContextLengthExceeded.of(64, 100, max_tokens, "messages")
    said = json.loads(error_body(error, "openai"))["error"]
    assert said["code"] == "context_length_exceeded"
    # litellm looks for the first words (lower case), agents for the number of tokens.
    assert said["message"].startswith("This model's maximum context length is 64 tokens. However, you requested ")
    assert f"requested {asked} tokens (100 in the messages" in said["message"]
    assert said["message"].endswith(" (context_length_exceeded)")
    passed_on = from_status(error.http_status, error.message, None, "messages", error.code)
    assert passed_on.message == error.message
    assert type(passed_on) is ContextLengthExceeded
    assert type(from_status(503, "full", code=error.code)).__name__ == "Unavailable"


@pytest.mark.parametrize(
    ("path", "style"),
    [
        ("/openai/v1/models", "openai"),
        ("/v1/chat/completions", "openai"),
        ("/v1/responses", "openai"),
        ("/v1/messages", "anthropic"),
        ("/openai/v1/messages/count_tokens", "anthropic"),
        ("/v2/models/m/infer", "v2"),
        ("/v1", "v2"),
        ("/", "v2"),
    ],
)
def test_style_of_a_path(path: str, style: ErrorStyle) -> None:
    assert style_of_path(path) == style
