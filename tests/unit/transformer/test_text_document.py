"""What the OpenAPI document says of an answer is what is answered: the document is made from the structs that are."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from fake_token_source import Answer, FakeTokenSource
from text_app import TextApp

from pilotlight_protocol.errors import Unavailable

MODEL = "/v2/models/{model_name}"
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
COMPLETION = {"model": "demo", "prompt": "x"}
TENSOR = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["x"]}
ASKED: list[tuple[str, Any]] = [
    ("/v1/models", None),
    ("/v1/models/{model_name}", None),
    ("/v2", None),
    ("/v2/models", None),
    (MODEL, None),
    (f"{MODEL}/ready", None),
    ("/v2/health/ready", None),
    ("/v2/repository/index", {"ready": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"n": 2, "logprobs": True, "top_logprobs": 1}),
    ("/v1/chat/completions", CHAT | {"n": "two"}),
    ("/v1/completions", COMPLETION),
    ("/v1/completions", COMPLETION | {"echo": True, "logprobs": 1}),
    ("/v1/embeddings", {}),
    ("/v1/responses", {"model": "demo", "input": "hello"}),
    ("/v1/responses", {"model": "demo", "input": []}),
    ("/v1/responses/input_tokens", {"model": "demo", "input": "hello"}),
    ("/v1/responses/input_tokens", {"model": "demo", "input": []}),
    ("/v1/responses/{response_id}", None),
    ("/v1/responses/{response_id}/input_items", None),
    ("/v1/messages", CHAT | {"max_tokens": 4}),
    ("/v1/messages", CHAT),
    ("/v1/messages/count_tokens", CHAT),
    ("/v1/embeddings", {"input": "x"}),
    ("/rerank", {"query": "x", "documents": ["y"]}),
    ("/tokenize", {"prompt": "x"}),
    ("/tokenize", {"messages": CHAT["messages"], "return_token_strs": True}),
    ("/tokenize", {}),
    ("/detokenize", {"tokens": [1]}),
    (f"{MODEL}/generate", {"text_input": "x"}),
    (f"{MODEL}/generate", {"text_input": "x", "logprobs": 1, "n": 2}),
    (f"{MODEL}/generate", {"text_input": "x", "prompt_logprobs": 1}),
    (f"{MODEL}/generate", {}),
    (f"{MODEL}/infer", {"inputs": [TENSOR]}),
    (f"{MODEL}/infer", {"id": "7", "inputs": [TENSOR]}),
]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("path", "body"), ASKED)
async def test_an_answer_is_as_it_is_described(path: str, body: Any, fails: bool) -> None:
    answer = Answer([], error=Unavailable("full", retry_after_s=7)) if fails else Answer()
    app = TextApp(FakeTokenSource(answer))
    url = path.replace("{model_name}", "tuned")
    async with app.client() as client:
        document = (await client.get("/openapi.json")).json()
        response = await (client.get(url) if body is None else client.post(url, json=body))
    operation = document["paths"][path]["get" if body is None else "post"]
    described = operation["responses"][str(response.status_code)]["content"]["application/json"]["schema"]
    schema = closed({**described, "components": document["components"]})
    jsonschema.Draft202012Validator(schema).validate(response.json())


def closed(schema: Any) -> Any:
    """The schema, with nothing allowed that it does not name."""
    shut = json.loads(json.dumps(schema))
    for shape in shut["components"]["schemas"].values():
        if "properties" in shape:
            shape.setdefault("additionalProperties", False)
    return shut
