"""The transformer as a process, before a predictor that does as it is told: text, errors, headers, cancellation."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from component_process import RunningComponent, tail
from fake_token_predictor import FakeTokenPredictor, Script
from server_ports import free_port
from text_app import demo_ids
from transformer_process import transformer
from waiting import until

pytestmark = pytest.mark.integration


def tokens(text: str) -> list[int]:
    return demo_ids(text)


def deltas(text: str) -> list[list[int]]:
    """One event per token."""
    return [[token_id] for token_id in tokens(text)]


@pytest.fixture(scope="module")
def predictor() -> Iterator[FakeTokenPredictor]:
    with FakeTokenPredictor().running() as fake:
        yield fake


@pytest.fixture(scope="module")
def served(predictor: FakeTokenPredictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComponent]:
    host = f"demo-predictor.ns.localhost:{predictor.port}"
    log = tmp_path_factory.mktemp("transformer") / "transformer.log"
    with transformer(host, log, "--lora_module", "tuned=/adapters/tuned", "--grpc_port", "9000") as running:
        yield running


@pytest.fixture
def http(served: RunningComponent) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.base, timeout=30) as client:
        yield client


@pytest.fixture
def client(served: RunningComponent) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.base + "/openai/v1", api_key="none", max_retries=0) as made:
        yield made


def events(response: httpx.Response) -> list[dict[str, Any]]:
    blocks = [block for block in response.text.split("\n\n") if block]
    return [json.loads(block.removeprefix("data: ")) for block in blocks if block != "data: [DONE]"]


# What reaches the predictor


def test_the_request_to_the_predictor(http: httpx.Client, predictor: FakeTokenPredictor) -> None:
    predictor.plan(Script())
    sent = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-request-id": "my-request",
        "x-pilotlight-tenant": "acme",
        "authorization": "Bearer not-for-the-predictor",
    }
    body = {"text_input": "Once upon a time", "parameters": {"temperature": 0.5, "max_tokens": 7}, "top_k": 3}
    response = http.post("/v2/models/demo/generate", json=body, headers=sent)
    assert response.status_code == 200
    seen = predictor.seen[0]
    assert seen.path == "/v2/models/demo/generate"
    assert seen.body["input_ids"] == tokens("Once upon a time")
    assert seen.body["parameters"] == {"temperature": 0.5, "max_tokens": 7, "top_k": 3}
    assert seen.body["id"] == "my-request"
    for name in ("traceparent", "x-request-id", "x-pilotlight-tenant"):
        assert seen.headers[name] == sent[name]
    assert "authorization" not in seen.headers
    assert seen.headers["host"] == f"demo-predictor.ns.localhost:{predictor.port}"


def test_phases_and_headers_come_back(http: httpx.Client, predictor: FakeTokenPredictor) -> None:
    headers = {"Server-Timing": "lease;dur=5.0, prefill;dur=7.5", "X-Pilotlight-Slot": "3"}
    predictor.plan(Script(headers=headers), Script(headers=headers))
    for verb in ("generate", "generate_stream"):
        answer = http.post(f"/v2/models/demo/{verb}", json={"text_input": "Hi"}, headers={"x-request-id": "r-1"})
        assert "lease;dur=5.000" in answer.headers["server-timing"]
        assert "prefill;dur=7.500" in answer.headers["server-timing"]
        assert "tokenize;dur=" in answer.headers["server-timing"]
        assert answer.headers["x-pilotlight-slot"] == "3"
        assert answer.headers["x-request-id"] == "r-1"


def test_connections_are_used_again(http: httpx.Client, predictor: FakeTokenPredictor) -> None:
    predictor.plan(*[Script() for _ in range(6)])
    for verb in ("generate", "generate_stream") * 3:
        assert http.post(f"/v2/models/demo/{verb}", json={"text_input": "Hi"}).status_code == 200
    assert len({seen.connection for seen in predictor.seen}) <= 2, "one more may be needed while a stream's end comes"


def test_a_connection_that_closes_as_it_is_used_again_is_replaced(
    http: httpx.Client, predictor: FakeTokenPredictor
) -> None:
    predictor.plan(Script(), Script(drop=True), Script())
    for _ in range(2):
        assert http.post("/v2/models/demo/generate", json={"text_input": "Hi"}).status_code == 200
    first, dropped, again = predictor.seen
    assert first.connection == dropped.connection != again.connection


# Text


def test_text_streams_without_splitting_characters(http: httpx.Client, predictor: FakeTokenPredictor) -> None:
    text = "naïve 😀 你好, the end"
    predictor.plan(Script(deltas=deltas(text)))
    answer = events(http.post("/v2/models/demo/generate_stream", json={"text_input": "Hi", "id": "mine"}))
    assert "".join(event["text_output"] for event in answer) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in event["text_output"] for event in answer)
    assert answer[0]["prompt_tokens"] == len(tokens("Hi"))
    assert {event["id"] for event in answer} == {"mine"}
    assert [event["finish_reason"] for event in answer] == [None] * (len(answer) - 1) + ["length"]


def test_events_that_come_together_are_sent_together(http: httpx.Client, predictor: FakeTokenPredictor) -> None:
    text = "one two three four five"
    predictor.plan(Script(deltas=deltas(text), coalesce=True))
    answer = events(http.post("/v2/models/demo/generate_stream", json={"text_input": "Hi"}))
    assert len(answer) == 1
    assert answer[0]["text_output"] == text


def test_a_stop_string_ends_the_generation_in_the_predictor(http: httpx.Client, predictor: FakeTokenPredictor) -> None:
    body = {"text_input": "Hi", "parameters": {"stop": ["STOP"]}}
    for verb in ("generate_stream", "generate"):
        predictor.plan(Script(deltas=deltas("one two STOP three"), hold=True))
        response = http.post(f"/v2/models/demo/{verb}", json=body)
        answer = events(response) if verb == "generate_stream" else [response.json()]
        assert "".join(event["text_output"] for event in answer) == "one two "
        assert answer[-1]["finish_reason"] == "stop"
        shown = answer[-1] if verb == "generate_stream" else answer[-1]["outputs"][0]
        assert shown["stop_reason"] == "STOP"
        assert "stop" not in predictor.seen[0].body["parameters"]
        until(lambda: predictor.seen[0].aborted)


def test_the_end_of_sequence_token_is_counted_and_not_shown(
    client: openai.OpenAI, predictor: FakeTokenPredictor
) -> None:
    end = tokens("<|im_end|>")
    assert len(end) == 1
    predictor.plan(Script(deltas=[*deltas("Hello"), end], finish_reason="stop"))
    answer = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(tokens("Hello")) + 1


# The openai client


def test_chat_whole(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    predictor.plan(Script(deltas=deltas("Hello there"), cached_tokens=4))
    answer = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=9, seed=1, user="someone"
    )
    prompt = tokens("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert predictor.seen[0].body["input_ids"] == prompt
    assert predictor.seen[0].body["parameters"] == {"max_tokens": 9, "seed": 1}
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "Hello there"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.total_tokens == len(prompt) + len(tokens("Hello there"))
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


def test_chat_streamed(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    predictor.plan(Script(deltas=deltas("Hello 😀 there")))
    stream = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello 😀 there"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(tokens("Hello 😀 there"))
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_choices_and_logprobs(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    predictor.plan(Script(deltas=deltas("é!"), choices=2, logprobs=True), Script(deltas=deltas("é!"), logprobs=True))
    ask: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True}
    answer = client.chat.completions.create(**ask, top_logprobs=2, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert predictor.seen[0].body["parameters"] == {"logprobs": 2, "n": 2}
    logprobs = answer.choices[1].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert bytes(b for token in logprobs.content for b in token.bytes or []).decode() == "é!"
    assert [top.logprob for top in logprobs.content[0].top_logprobs] == [-0.5, -1.5]
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert predictor.seen[1].body["parameters"] == {"logprobs": 0}
    streamed = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert sum(len(part.content or []) for part in streamed) == len(tokens("é!"))


def test_completions_of_every_kind_of_prompt(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    first, second = tokens("Once upon"), tokens("a time")
    prompts: list[tuple[Any, list[list[int]]]] = [
        ("Once upon", [first]),
        (["Once upon", "a time"], [first, second]),
        (first, [first]),
        ([first, second], [first, second]),
    ]
    for prompt, ids in prompts:
        predictor.plan(*[Script(deltas=deltas(" text"), choices=2) for _ in ids])
        answer = client.completions.create(model="demo", prompt=prompt, n=2)
        assert sorted(seen.body["input_ids"] for seen in predictor.seen) == sorted(ids)
        assert [choice.index for choice in answer.choices] == list(range(2 * len(ids)))
        assert all(choice.text == " text" for choice in answer.choices)
        assert predictor.seen[0].body["parameters"] == {"max_tokens": 16, "n": 2}
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == sum(map(len, ids))
        assert answer.usage.completion_tokens == 2 * len(ids) * len(tokens(" text"))


def test_streamed_completions_of_several_prompts(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    predictor.plan(Script(deltas=deltas(" same words")), Script(deltas=deltas(" same words")))
    stream = client.completions.create(
        model="demo", prompt=["a", "b"], stream=True, stream_options={"include_usage": True}
    )
    texts = {0: "", 1: ""}
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: " same words", 1: " same words"}
    assert usage is not None
    assert usage.prompt_tokens == 2


def test_echo_and_logprobs(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    prompt = tokens("Once upon")
    prompt_logprobs = [None, *({"token_id": token_id, "logprob": -1.0} for token_id in prompt[1:])]
    script = Script(deltas=deltas(" time"), logprobs=True, prompt_logprobs=prompt_logprobs)
    ask: dict[str, Any] = {"model": "demo", "prompt": "Once upon", "echo": True, "logprobs": 1}
    predictor.plan(script, script)
    answer = client.completions.create(**ask)
    assert answer.choices[0].text == "Once upon time"
    shown = answer.choices[0].logprobs
    assert shown is not None
    assert "".join(shown.tokens or []) == "Once upon time"
    assert (shown.token_logprobs or [])[:2] == [None, -1.0]
    assert (shown.text_offset or [])[-1] < len("Once upon time")
    assert predictor.seen[0].body["parameters"]["prompt_logprobs"] == 1
    scored = client.completions.create(**ask, max_tokens=0)
    assert scored.choices[0].text == "Once upon"
    assert scored.usage is not None
    assert scored.usage.completion_tokens == 0


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "tuned"]
    assert client.models.retrieve("tuned").id == "tuned"


def test_an_adapter_is_asked_by_its_name(client: openai.OpenAI, predictor: FakeTokenPredictor) -> None:
    predictor.plan(Script())
    client.completions.create(model="tuned", prompt="Hi")
    assert predictor.seen[0].path == "/v2/models/tuned/generate"


# Errors


def test_the_predictors_errors_keep_status_and_retry_after(
    client: openai.OpenAI, predictor: FakeTokenPredictor
) -> None:
    refuse = (503, b'{"error": "no engine slot is free"}', {"Retry-After": "17"})
    for stream in (False, True):
        predictor.plan(Script(refuse=refuse))
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hi"}], stream=stream)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "17"
        assert caught.value.body is not None
        assert "no engine slot is free" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, 400), (404, 404), (413, 413), (418, 400), (429, 429), (500, 500), (502, 503), (504, 504)],
)
def test_statuses_from_the_way(http: httpx.Client, predictor: FakeTokenPredictor, status: int, expected: int) -> None:
    predictor.plan(Script(refuse=(status, b"<html>a proxy's page</html>", {})))
    answer = http.post("/v2/models/demo/generate", json={"text_input": "Hi"})
    assert answer.status_code == expected
    assert answer.json() == {"error": f"the predictor's endpoint answered with status {status}"}


def test_an_error_inside_the_stream_is_an_event(http: httpx.Client, predictor: FakeTokenPredictor) -> None:
    predictor.plan(Script(deltas=deltas("one two three"), fail_after=(2, 503, "the engine was lost")))
    answer = events(http.post("/v2/models/demo/generate_stream", json={"text_input": "Hi"}))
    assert answer[-1] == {"error": "the engine was lost", "status": 503}
    predictor.plan(Script(deltas=deltas("one two three"), fail_after=(2, 503, "the engine was lost")))
    body = {"model": "demo", "prompt": "Hi", "stream": True}
    answer = events(http.post("/v1/completions", json=body))
    assert answer[-1]["error"]["message"] == "the engine was lost"
    assert answer[-1]["error"]["type"] == "service_unavailable_error"


def test_a_stream_that_breaks_off_is_never_taken_for_complete(
    http: httpx.Client, predictor: FakeTokenPredictor
) -> None:
    predictor.plan(Script(deltas=deltas("one two three"), break_after=2))
    answer = events(http.post("/v2/models/demo/generate_stream", json={"text_input": "Hi"}))
    assert answer[-1]["status"] == 503
    predictor.plan(Script(deltas=deltas("one two three"), break_after=2))
    whole = http.post("/v2/models/demo/generate", json={"text_input": "Hi", "stop": "zzz"})
    assert whole.status_code == 503
    assert "retry-after" in whole.headers


def test_an_aborted_generation_is_an_error(http: httpx.Client, predictor: FakeTokenPredictor) -> None:
    predictor.plan(Script(finish_reason="abort"))
    assert http.post("/v2/models/demo/generate", json={"text_input": "Hi"}).status_code == 503


def test_an_error_before_the_first_token_keeps_its_status(http: httpx.Client, predictor: FakeTokenPredictor) -> None:
    predictor.plan(Script(fail_after=(0, 504, "too late")))
    assert http.post("/v2/models/demo/generate_stream", json={"text_input": "Hi"}).status_code == 504


BAD_OPENAI: list[tuple[str, dict[str, Any], str | None]] = [
    ("chat/completions", {"messages": []}, "messages"),
    ("chat/completions", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("chat/completions", {"messages": [{"role": 1, "content": "x"}]}, "messages[0].role"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0]",
    ),
    ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "temperature": -1}, "temperature"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]},
        "tools[0].function.name",
    ),
    ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}, "top_logprobs"),
    ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "chat_template": "{{ 1 }}"}, "chat_template"),
    ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "logit_bias": {"1": 200}}, "logit_bias"),
    ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "n": 0}, "n"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "xml"}},
        "response_format.type",
    ),
    ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream_options": {}}, "stream_options"),
    ("completions", {}, "prompt"),
    ("completions", {"prompt": ""}, "prompt"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": ["a", 1]}, "prompt"),
    ("completions", {"prompt": {"a": 1}}, "prompt"),
    ("completions", {"prompt": "x", "suffix": "y"}, "suffix"),
    ("completions", {"prompt": "x", "best_of": 3}, "best_of"),
    ("completions", {"prompt": "x", "max_tokens": -1}, "max_tokens"),
    ("completions", {"prompt": "word " * 3000}, "prompt"),
    ("completions", {"prompt": "x" * 200_000}, "prompt"),
    ("completions", {"prompt": "x", "stop": ["y"] * 17}, "stop"),
    ("completions", {"prompt": "x", "logit_bias": {"one": 2}}, "logit_bias"),
    ("completions", {"prompt": "x", "truncation_side": "top"}, "truncation_side"),
    ("completions", {"prompt": "x", "kv_transfer_params": {"a": 1}}, "kv_transfer_params"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD_OPENAI)
def test_bad_openai_requests_name_the_field(
    http: httpx.Client, predictor: FakeTokenPredictor, path: str, body: dict[str, Any], param: str | None
) -> None:
    predictor.plan()
    answer = http.post(f"/openai/v1/{path}", json={"model": "demo", **body})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["param"] == param
    assert predictor.seen == []


def test_other_refusals(http: httpx.Client) -> None:
    body = {"model": "nope", "prompt": "x"}
    unknown = http.post("/openai/v1/completions", json=body)
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")
    assert http.post("/openai/v1/embeddings", json={"model": "demo", "input": "x"}).status_code == 400
    assert http.post("/openai/v1/completions", content=b"{", headers={"content-type": "application/json"}).json() == {
        "error": {
            "message": "the body is not valid JSON: it ends after 1 bytes, before its value does",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
    }
    assert http.post("/v2/models/demo/generate", json={"text_input": 3}).status_code == 400
    assert http.post("/v2/models/demo/generate", json={"text_input": "x", "temprature": 1}).status_code == 400


def test_an_unknown_model_has_openais_error_shape(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nope")
    assert caught.value.param == "model"


# Cancellation


def test_a_client_that_leaves_aborts_the_generation(served: RunningComponent, predictor: FakeTokenPredictor) -> None:
    asks: list[tuple[str, dict[str, Any]]] = [
        ("/v2/models/demo/generate_stream", {"text_input": "Hi"}),
        (
            "/openai/v1/chat/completions",
            {"model": "demo", "messages": [{"role": "user", "content": "x"}], "stream": True},
        ),
        ("/openai/v1/completions", {"model": "demo", "prompt": ["a"], "stream": True}),
    ]
    for path, body in asks:
        predictor.plan(Script(deltas=deltas("one two three"), hold=True))
        with httpx.Client(timeout=30) as client, client.stream("POST", served.base + path, json=body) as answer:
            next(answer.iter_raw())
        until(lambda: predictor.seen[0].aborted)


def test_a_client_that_leaves_a_whole_answer_aborts_it_too(
    served: RunningComponent, predictor: FakeTokenPredictor
) -> None:
    predictor.plan(Script(deltas=deltas("one two"), hold=True))
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=httpx.Timeout(5, read=0.3)) as client:
        client.post(served.base + "/v2/models/demo/generate", json={"text_input": "Hi", "stop": "zzz"})
    until(lambda: predictor.seen[0].aborted)


# Without a predictor


def test_readiness_does_not_ask_for_the_predictor(tmp_path: Path) -> None:
    with transformer(f"127.0.0.1:{free_port()}", tmp_path / "log", "--drain_timeout_s", "2") as running:
        assert httpx.get(running.base + "/v2/models/demo/ready").status_code == 200
        answer = httpx.post(running.base + "/v2/models/demo/generate", json={"text_input": "Hi"})
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert "cannot connect to the predictor" in answer.json()["error"]


def test_a_silent_predictor_is_a_timeout(predictor: FakeTokenPredictor, tmp_path: Path) -> None:
    predictor.plan(Script(deltas=deltas("one"), hold=True))
    host = f"127.0.0.1:{predictor.port}"
    with transformer(host, tmp_path / "log", "--predictor_request_timeout_seconds", "0.5") as running:
        answer = httpx.post(running.base + "/v2/models/demo/generate", json={"text_input": "Hi", "stop": "zzz"})
    assert answer.status_code == 504
    assert "--predictor_request_timeout_seconds" in answer.json()["error"]


# Any input at all


def test_schemathesis_finds_nothing(served: RunningComponent, predictor: FakeTokenPredictor) -> None:
    predictor.plan()
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{served.base}/openapi.json"]
    command += ["--max-examples=8", "--generation-deterministic", "--no-color"]
    # Unloading leaves nothing to test.
    command += ["--exclude-operation-id=unload"]
    # Has a test of its own: test_an_unknown_model_has_openais_error_shape.
    command += ["--exclude-operation-id=retrieve_model", "--exclude-operation-id=retrieve_model_short"]
    # Fields that depend on one another cannot be said in JSON Schema: what fits it may rightly get 400.
    command += ["--exclude-checks=positive_data_acceptance"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:] + tail(served.log)
