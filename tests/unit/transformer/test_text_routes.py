"""The transformer's routes over a fake source of tokens, through ASGI."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from typing import Any

import pytest
from fake_token_source import Answer, FakeTokenSource
from text_app import TextApp, demo_ids, demo_text, events_of, own_text

from pilotlight_protocol.errors import BY_STATUS, InvalidInput, Unavailable
from pilotlight_text.text_model import LoadedText
from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError

CHAT = "/openai/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hello"}]


def ids(text: str) -> list[int]:
    return demo_ids(text)


def saying(*texts: str, **options: Any) -> FakeTokenSource:
    """A source whose answers have one batch per text."""
    return FakeTokenSource(Answer([ids(text) for text in texts], **options))


async def test_chat_whole() -> None:
    app = TextApp(saying("Once", " upon"))
    response = await app.post(CHAT, {"model": "demo", "messages": MESSAGES}, traceparent="00-1-1-01")
    answer = response.json()
    assert response.status_code == 200
    assert answer["choices"][0]["message"]["content"] == "Once upon"
    assert answer["choices"][0]["finish_reason"] == "length"
    (asked,) = app.source.asked
    assert asked.whole
    assert asked.metadata["traceparent"] == "00-1-1-01"
    assert answer["usage"]["prompt_tokens"] == len(asked.input_ids)
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert response.headers["x-pilotlight-lease"] == "path=warm"
    assert "prefill;dur=3.000" in response.headers["server-timing"]
    assert "tokenize" in response.headers["server-timing"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "demo", "messages": MESSAGES}),
        (COMPLETIONS, {"model": "demo", "prompt": "Once"}),
        ("/openai/v1/responses", {"model": "demo", "input": "Once"}),
        ("/v1/messages", {"model": "demo", "messages": MESSAGES, "max_tokens": 4}),
        ("/v2/models/demo/generate", {"text_input": "Once"}),
    ],
)
async def test_who_makes_the_tokens_is_told_what_is_left_of_the_time(path: str, body: dict[str, Any]) -> None:
    app = TextApp(saying("Once"))
    response = await app.post(path, body, **{"x-request-timeout": "20"})
    assert response.status_code == 200, response.text
    assert 1 < float(app.source.asked[0].metadata["x-request-timeout"]) <= 20
    await app.post(path, body, **{"x-request-timeout": "soon"})
    assert "x-request-timeout" not in app.source.asked[1].metadata


async def test_chat_streamed() -> None:
    app = TextApp(saying("Once", " upon"))
    body = {"model": "demo", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}, "n": 2}
    *chunks, usage, done = events_of(await app.post(CHAT, body))
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2 * (len(ids("Once")) + len(ids(" upon")))
    for choice in (0, 1):
        of_choice = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice]
        assert of_choice[0]["delta"]["role"] == "assistant"
        assert "".join(chunk["delta"].get("content", "") for chunk in of_choice) == "Once upon"
        assert of_choice[-1]["finish_reason"] == "length"
    assert app.source.closed == 1


async def test_chat_log_probabilities() -> None:
    app = TextApp(saying("Once"))
    body = {"model": "demo", "messages": MESSAGES, "logprobs": True, "top_logprobs": 1}
    (choice,) = (await app.post(CHAT, body)).json()["choices"]
    assert "".join(entry["token"] for entry in choice["logprobs"]["content"]) == "Once"
    streamed = events_of(await app.post(CHAT, body | {"stream": True}))
    assert any(chunk["choices"][0]["logprobs"] for chunk in streamed[:-1] if chunk["choices"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_generation(stream: bool) -> None:
    app = TextApp(saying("one", " two", " three", cut=True))
    body = {"model": "demo", "messages": MESSAGES, "stop": [" tw"], "stream": stream}
    response = await app.post(CHAT, body)
    text = (
        "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events_of(response)[:-1])
        if stream
        else response.json()["choices"][0]["message"]["content"]
    )
    assert text == "one"
    assert app.source.closed == 1
    assert app.source.asked[0].parameters.stop == []
    assert not app.source.asked[0].whole


async def test_continuing_the_last_message() -> None:
    app = TextApp(saying("!"))
    messages = [*MESSAGES, {"role": "assistant", "content": "Once upon"}]
    body = {"model": "demo", "messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    assert (await app.post(CHAT, body)).status_code == 200
    assert demo_text().codec.decode(app.source.asked[0].input_ids).endswith("Once upon")


async def test_completions_of_many_prompts() -> None:
    app = TextApp(saying("a", "b"))
    body = {"model": "demo", "prompt": ["x", "y", "z"], "n": 2, "echo": True}
    answer = (await app.post(COMPLETIONS, body)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["xab", "xab", "yab", "yab", "zab", "zab"]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert answer["usage"]["prompt_tokens"] == sum(len(asked.input_ids) for asked in app.source.asked)
    streamed = events_of(await app.post(COMPLETIONS, body | {"stream": True}))
    assert streamed.pop() == "[DONE]"
    texts = dict.fromkeys(range(6), "")
    for chunk in streamed:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert list(texts.values()) == ["xab", "xab", "yab", "yab", "zab", "zab"]
    assert app.source.closed == len(app.source.asked)


async def test_completions_of_token_ids_with_log_probabilities() -> None:
    app = TextApp(saying("a"))
    body = {"model": "tuned", "prompt": ids("Once upon"), "echo": True, "logprobs": 1, "max_tokens": 0}
    (choice,) = (await app.post(COMPLETIONS, body)).json()["choices"]
    assert choice["text"] == "Once upon"
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert app.source.asked[0].model_name == "tuned"
    streamed = events_of(await app.post(COMPLETIONS, body | {"max_tokens": 1, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed[:-1]) == "Once upona"


@pytest.mark.parametrize("prompt", ["x", ["x", "y"]], ids=["one", "many"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer([], error=InvalidInput("no", param="max_tokens")), 400),
        (Answer([], error=Unavailable("full", retry_after_s=7)), 503),
        (Answer([(1,)], error=Unavailable("lost")), 503),
        (Answer([(1,)], cut=True), 503),
        (Answer([(1,)], reason="abort"), 503),
    ],
    ids=["refused", "full", "lost midway", "ended early", "given up"],
)
async def test_what_a_source_fails_with_is_told(prompt: Any, stream: bool, answer: Answer, status: int) -> None:
    app = TextApp(FakeTokenSource(answer))
    response = await app.post(COMPLETIONS, {"model": "demo", "prompt": prompt, "stream": stream})
    if stream and response.status_code == 200:
        assert events_of(response)[-1]["error"]["type"] == BY_STATUS[status].openai_type
    else:
        assert response.status_code == status
        assert response.json()["error"]["type"] == BY_STATUS[status].openai_type
        assert answer.batches or "retry-after" in response.headers or status == 400


async def test_a_choice_nobody_asked_for_is_an_error() -> None:
    app = TextApp(saying("a"))
    app.source.answers.append(Answer([ids("a")]))
    started = app.source.stream

    async def three(request: Any) -> Any:
        stream = await started(request)
        events = stream.events

        async def wrong() -> Any:
            out = await events()
            for event in out:
                event.index = 3
            return out

        stream.events = wrong  # type: ignore[method-assign]  # a bug, made
        return stream

    app.source.stream = three  # type: ignore[method-assign]  # a bug, made
    assert (await app.post(CHAT, {"model": "demo", "messages": MESSAGES})).status_code == 503


async def test_generate() -> None:
    app = TextApp(saying("Once", " upon"))
    body = {"text_input": "x", "id": "mine", "parameters": {"max_tokens": 4, "n": 2, "logprobs": 0}}
    answer = (await app.post("/v2/models/demo/generate", body)).json()
    assert (answer["text_output"], answer["id"]) == ("Once upon", "mine")
    assert [output["index"] for output in answer["outputs"]] == [0, 1]
    assert answer["outputs"][0]["logprobs"]
    streamed = events_of(await app.post("/v2/models/demo/versions/1/generate_stream", body))
    assert "".join(event["text_output"] for event in streamed if event["index"] == 1) == "Once upon"
    assert streamed[0]["prompt_tokens"] == len(app.source.asked[0].input_ids)
    flat = await app.post("/v2/models/demo/generate", {"text_input": "x", "max_tokens": 4, "stream": True})
    assert "".join(event["text_output"] for event in events_of(flat)) == "Once upon"


async def test_infer() -> None:
    app = TextApp(saying("a"))
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [2], "data": ["x", "y"]}
    body = {"id": "7", "inputs": [tensor], "parameters": {"max_tokens": 3}}
    answer = (await app.post("/v2/models/demo/infer", body)).json()
    assert [output["data"] for output in answer["outputs"]] == [["a", "a"], ["length", "length"]]
    assert answer["parameters"]["completion_tokens"] == 2 * len(ids("a"))


@pytest.mark.parametrize("path", ["/v1/models", "/openai/v1/models", "/v2/health/live", "/v2/models", "/openapi.json"])
async def test_asking_around_asks_no_source(path: str) -> None:
    app = TextApp(FakeTokenSource())
    async with app.client() as client:
        assert (await client.get(path)).status_code == 200
        assert (await client.get("/v1/models/tuned")).json()["id"] == "tuned"
        assert (await client.get("/v1/models/other")).status_code == 404
    assert app.source.asked == []


async def test_nothing_is_served_before_the_tokenizer_is_there() -> None:
    app = TextApp(FakeTokenSource(), loaded=False)
    for path, body in (
        (CHAT, {"model": "demo", "messages": MESSAGES}),
        (COMPLETIONS, {"model": "demo", "prompt": "x"}),
    ):
        response = await app.post(path, body)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    async with app.client() as client:
        assert (await client.get("/v2/health/ready")).status_code == 503


async def test_unloading_and_loading_again() -> None:
    app = TextApp(FakeTokenSource(), text=own_text(), model_control=True)
    assert (await app.post("/v2/repository/models/demo/unload", b"")).status_code == 200
    assert (await app.post(COMPLETIONS, {"model": "demo", "prompt": "x"})).status_code == 503
    assert (await app.post("/v2/repository/models/demo/load", b"")).status_code == 200
    assert (await app.post(COMPLETIONS, {"model": "demo", "prompt": "x"})).status_code == 200


@pytest.mark.parametrize("error", [TokenizerFilesError("tokenizer.json is missing"), ZeroDivisionError("a bug")])
async def test_a_load_that_fails_ends_the_server_with_the_reason_last(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The platform shows people the last lines of the log, and clients the last one."""
    caplog.set_level(logging.DEBUG)
    app = TextApp(FakeTokenSource(), loaded=False)
    loading: Future[LoadedText] = Future()
    stopped: list[bool] = []
    async with app.living(loading, stopped):
        loading.set_exception(error)
        async with asyncio.timeout(5):
            while not stopped:  # noqa: ASYNC110 the callback is all there is
                await asyncio.sleep(0)
        assert app.model.load_failed
    told = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert str(error) in told[-1].getMessage()
    assert not any(record.exc_info or "Traceback" in record.getMessage() for record in told)
    traced = [record for record in caplog.records if record.exc_info]
    assert bool(traced) != isinstance(error, TokenizerFilesError), "a bug's place is in the log, at DEBUG"
    assert app.source.ended


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TokenizerFilesError("tokenizer.json cannot be read: bad"), "tokenizer.json cannot be read: bad"),
        (ZeroDivisionError("a bug"), "the tokenizer of demo cannot be loaded: ZeroDivisionError: a bug"),
    ],
)
async def test_a_load_that_fails_later_is_told_without_a_traceback(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any) -> LoadedText:
        raise error

    monkeypatch.setattr("pilotlight_transformer.served_text_model.load_text", failing)
    app = TextApp(FakeTokenSource(), model_control=True)
    response = await app.post("/v2/repository/models/demo/load", b"")
    assert (response.status_code, response.json()) == (503, {"error": told})


async def test_loaded_when_it_is_loaded() -> None:
    app = TextApp(FakeTokenSource(), loaded=False)
    loading: Future[LoadedText] = Future()
    async with app.living(loading, []):
        loading.set_result(own_text())
        async with asyncio.timeout(5):
            while not app.model.ready():  # noqa: ASYNC110
                await asyncio.sleep(0)
