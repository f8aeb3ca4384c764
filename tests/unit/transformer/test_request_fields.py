"""What each field of a request does, over a fake source of tokens, through ASGI."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fake_token_source import Answer, FakeTokenSource
from text_app import TextApp, demo_ids, demo_text, events_of

from pilotlight_protocol.errors import ContextLengthExceeded
from pilotlight_text import ignored_fields
from pilotlight_text.openai_api import field_tables
from pilotlight_wire.handlers import RequestContext

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
SAMPLE = {
    "ec_transfer_params": {"a": 1},
    "kv_transfer_params": {"a": 1},
    "thinking_token_budget": 0,
    "suffix": "end",
    "use_beam_search": True,
    "vllm_xargs": {"a": 1},
    "watermarking": True,
}


def ids(text: str) -> list[int]:
    return demo_ids(text)


def special(text: str) -> int:
    return demo_text().codec.special_tokens[text]


def app_saying(*texts: str, **options: Any) -> TextApp:
    return TextApp(FakeTokenSource(Answer([ids(text) for text in texts], **options)))


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "hello"}], **fields}


def prompt(**fields: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": "x", **fields}


ROUTES = pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, prompt())], ids=["chat", "plain"])
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@ROUTES
@STREAM
async def test_unknown_fields_are_named_to_the_client_and_logged_once(
    path: str, body: dict[str, Any], stream: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ignored_fields, "_logged", set())
    caplog.set_level(logging.WARNING, "pilotlight.text")
    app = app_saying("a")
    mistyped = {**body, "temprature": 0, "stream": stream, "bad\nname": [], "user": "u"}
    for _ in range(2):
        answer = await app.post(path, mistyped)
        assert answer.status_code == 200
        assert answer.headers["x-pilotlight-ignored-fields"] == "temprature, bad?name"
    assert [record.getMessage() for record in caplog.records if "temprature" in record.getMessage()] == [
        "requests name a field 'temprature', which nobody here knows: it is ignored; did you mean temperature?"
    ]
    assert "x-pilotlight-ignored-fields" not in (await app.post(path, body)).headers


async def test_an_unknown_stream_option_is_named_and_a_wrong_value_is_still_refused() -> None:
    app = app_saying("a")
    answer = await app.post(CHAT, chat(stream=True, stream_options={"include_usage": True, "every": 3}))
    assert answer.headers["x-pilotlight-ignored-fields"] == "stream_options.every"
    refused = await app.post(CHAT, chat(temprature=1, stop=5))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stop")


def test_the_log_is_bounded(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignored_fields, "_logged", set())
    context = RequestContext("id", {}, b"")
    for number in range(1000):
        ignored_fields.note_unseen([f"messages[{number}].content", f"field{number}"], context)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == ignored_fields.MOST_NAMES_LOGGED
    assert len([line for line in told if "messages[].content" in line]) == 1


@ROUTES
async def test_what_is_not_done_is_refused_by_name(path: str, body: dict[str, Any]) -> None:
    app = app_saying("a")
    for name, value in SAMPLE.items():
        if name == "suffix" and path == CHAT:
            continue
        answer = await app.post(path, {**body, name: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
        assert field_tables.REFUSED[name] in answer.json()["error"]["message"]
    nothing = {"use_beam_search": False, "kv_transfer_params": None, "watermarking": False, "thinking_token_budget": -1}
    assert (await app.post(path, {**body, **nothing})).status_code == 200


@ROUTES
async def test_openais_top_p_begins_at_0_which_is_greedy(path: str, body: dict[str, Any]) -> None:
    app = app_saying("a")
    assert (await app.post(path, {**body, "top_p": 0, "temperature": 1.5})).status_code == 200
    assert (app.source.asked[0].parameters.temperature, app.source.asked[0].parameters.top_p) == (0, None)
    assert (await app.post(path, {**body, "temperature": 2.1})).json()["error"]["param"] == "temperature"


@ROUTES
@STREAM
async def test_choices_at_temperature_0_are_one_generation_shown_n_times(
    path: str, body: dict[str, Any], stream: bool
) -> None:
    app = app_saying("one", " two")
    asked = {**body, "n": 3, "temperature": 0, "stream": stream}
    if stream:
        asked["stream_options"] = {"include_usage": True}
    answer = await app.post(path, asked)
    tokens = len(ids("one")) + len(ids(" two"))
    if stream:
        *chunks, last, _ = events_of(answer)
        texts = dict.fromkeys(range(3), "")
        for choice in (chunk["choices"][0] for chunk in chunks):
            texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
    else:
        last = answer.json()
        texts = {
            choice["index"]: choice["text"] if path == COMPLETIONS else choice["message"]["content"]
            for choice in last["choices"]
        }
    assert texts == dict.fromkeys(range(3), "one two")
    assert last["usage"]["completion_tokens"] == 3 * tokens
    assert app.source.asked[0].parameters.n == 1


@ROUTES
@STREAM
async def test_a_special_token_stops_though_its_text_is_hidden(path: str, body: dict[str, Any], stream: bool) -> None:
    mark = "<|im_start|>"
    app = TextApp(FakeTokenSource(Answer([[*ids("one"), special(mark)]], reason="stop")))
    answer = await app.post(path, {**body, "stop": [mark, "never"], "stream": stream})
    assert app.source.asked[0].parameters.stop_token_ids == [special(mark)]
    choice = events_of(answer)[-2]["choices"][0] if stream else answer.json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", mark)
    assert mark not in answer.text.replace(f'"stop_reason":"{mark}"', "")


@ROUTES
async def test_special_tokens_are_seen_where_asked_for_and_then_stop_as_text(path: str, body: dict[str, Any]) -> None:
    mark = "<|im_start|>"
    app = TextApp(FakeTokenSource(Answer([[*ids("one"), special(mark), *ids("two")]])))
    answer = await app.post(path, {**body, "skip_special_tokens": False})
    assert f'"one{mark}two"' in answer.text
    answer = await app.post(path, {**body, "skip_special_tokens": False, "stop": mark})
    assert '"one"' in answer.text
    assert answer.json()["choices"][0]["stop_reason"] == mark
    assert app.source.asked[1].parameters.stop_token_ids == []


@ROUTES
async def test_bad_words_and_biases_reach_the_source_as_token_ids(path: str, body: dict[str, Any]) -> None:
    app = app_saying("a")
    fields = {"bad_words": ["the"], "logit_bias": {"5": -100}, "allowed_token_ids": [5, 6]}
    assert (await app.post(path, {**body, **fields})).status_code == 200
    asked = app.source.asked[0].parameters
    assert asked.bad_words == []
    assert ids("the") in asked.bad_words_token_ids
    assert (asked.logit_bias, asked.allowed_token_ids) == ({5: -100.0}, [5, 6])


@STREAM
async def test_token_ids_of_a_chat(stream: bool) -> None:
    app = app_saying("one", " two")
    answer = await app.post(CHAT, chat(return_token_ids=True, return_prompt_text=True, stream=stream))
    told = app.source.asked[0].input_ids
    text = demo_text().codec.decode(told, skip_special_tokens=False)
    if stream:
        first, *others = events_of(answer)[:-1]
        assert (first["prompt_token_ids"], first["prompt_text"]) == (told, text)
        assert all("prompt_token_ids" not in chunk for chunk in others)
        assert [token for chunk in others for token in chunk["choices"][0]["token_ids"]] == ids("one") + ids(" two")
    else:
        whole = answer.json()
        assert (whole["prompt_token_ids"], whole["prompt_text"]) == (told, text)
        assert whole["choices"][0]["token_ids"] == ids("one") + ids(" two")


@STREAM
async def test_token_ids_of_completions(stream: bool) -> None:
    app = app_saying("one", " two")
    answer = await app.post(COMPLETIONS, prompt(prompt=["x", "y"], return_token_ids=True, stream=stream))
    choices = [chunk["choices"][0] for chunk in events_of(answer)[:-1]] if stream else answer.json()["choices"]
    for index, given in enumerate("xy"):
        of_choice = [choice for choice in choices if choice["index"] == index]
        assert of_choice[0]["prompt_token_ids"] == app.source.asked[index].input_ids != ids(given + given)
        assert [token for choice in of_choice for token in choice["token_ids"]] == ids("one") + ids(" two")


@ROUTES
async def test_prompt_logprobs_as_vllm_writes_them(path: str, body: dict[str, Any]) -> None:
    app = app_saying("a")
    answer = (await app.post(path, {**body, "prompt_logprobs": 1})).json()
    shown = answer["prompt_logprobs"] if path == CHAT else answer["choices"][0]["prompt_logprobs"]
    told = app.source.asked[0].input_ids
    assert shown[0] is None
    assert len(shown) == len(told)
    for token_id, entry in zip(told[1:], shown[1:], strict=True):
        assert entry[str(token_id)].keys() == {"logprob", "rank", "decoded_token"}
    refused = await app.post(path, {**body, "prompt_logprobs": 1, "stream": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt_logprobs")


@ROUTES
async def test_usage_stands_in_every_chunk_where_it_was_asked_for(path: str, body: dict[str, Any]) -> None:
    app = app_saying("one", " two")
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last, _ = events_of(await app.post(path, {**body, "stream": True, "stream_options": options}))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == last["usage"]["completion_tokens"] == len(ids("one")) + len(ids(" two"))
    options = {"continuous_usage_stats": True}
    *chunks, _ = events_of(await app.post(path, {**body, "stream": True, "stream_options": options}))
    assert all("usage" not in chunk for chunk in chunks)


@ROUTES
async def test_the_answer_is_named_after_the_request(path: str, body: dict[str, Any]) -> None:
    app = app_saying("a")
    assert (await app.post(path, {**body, "request_id": "mine"})).json()["id"].endswith("-mine")
    told = {"x-request-id": "theirs"}
    assert (await app.post(path, {**body, "request_id": "mine"}, **told)).json()["id"].endswith("-theirs")


@STREAM
@pytest.mark.parametrize(("role", "shown"), [("assistant", "Well, one"), ("user", "one")])
async def test_a_chat_echoes_the_last_message_of_the_assistant(role: str, shown: str, stream: bool) -> None:
    app = app_saying("one")
    messages = [{"role": "user", "content": "hello"}, {"role": role, "content": "Well, "}]
    answer = await app.post(CHAT, chat(messages=messages, echo=True, stream=stream))
    text = (
        "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events_of(answer)[:-1])
        if stream
        else answer.json()["choices"][0]["message"]["content"]
    )
    assert text == shown


@ROUTES
async def test_a_prompt_is_cut_and_a_long_one_then_fits(path: str, body: dict[str, Any]) -> None:
    app = app_saying("a")
    long = "word " * 2_000
    full = {**body, "messages": [{"role": "user", "content": long}]} if path == CHAT else {**body, "prompt": long}
    assert (await app.post(path, full)).json()["error"]["code"] == "context_length_exceeded"
    for side in ("left", "right"):
        cut = {**full, "truncate_prompt_tokens": 7, "truncation_side": side}
        assert (await app.post(path, cut)).status_code == 200
    left, right = (asked.input_ids for asked in app.source.asked)
    assert len(left) == len(right) == 7
    assert (left == right) is False
    assert (await app.post(path, {**full, "truncate_prompt_tokens": -1, "max_tokens": 12})).status_code == 200
    assert len(app.source.asked[2].input_ids) == 512 - 12
    assert (await app.post(path, {**full, "truncate_prompt_tokens": -2})).status_code == 400


@ROUTES
@STREAM
@pytest.mark.parametrize("fields", [{"max_tokens": 32000}, {"prompt": [5] * 600}, {"prompt": "a b " * 20_000}])
async def test_what_does_not_fit_is_told_as_clients_recognise_it(
    path: str, body: dict[str, Any], stream: bool, fields: dict[str, Any]
) -> None:
    if path == CHAT and "prompt" in fields:
        fields = {"messages": [{"role": "user", "content": "a b " * len(fields["prompt"])}]}
    answer = await app_saying("a").post(path, {**body, **fields, "stream": stream})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (
        400,
        "context_length_exceeded",
        "invalid_request_error",
    )
    assert "this model's maximum context length is 512 tokens" in error["message"].lower()


@ROUTES
@STREAM
async def test_the_predictors_word_for_it_is_passed_on(path: str, body: dict[str, Any], stream: bool) -> None:
    error = ContextLengthExceeded.of(64, 60, 10, "max_tokens")
    answer = await TextApp(FakeTokenSource(Answer([], error=error))).post(path, {**body, "stream": stream})
    assert answer.json()["error"]["code"] == "context_length_exceeded"


async def test_too_many_completion_tokens_are_named_as_they_were_sent() -> None:
    answer = await app_saying("a").post(CHAT, chat(max_completion_tokens=0))
    error = answer.json()["error"]
    assert error["param"] == "max_completion_tokens"
    assert "'max_completion_tokens'" in error["message"]


TEXT = "añb😀 c"


def offsets_by_decoding(prompt_ids: list[int], token_ids: list[int]) -> list[int]:
    """How much whole text stands before each token."""
    codec = demo_text().codec
    whole = [
        codec.decode([*prompt_ids, *token_ids[:count]]).rstrip("\N{REPLACEMENT CHARACTER}")
        for count in range(len(token_ids))
    ]
    return [len(text) - len(codec.decode(prompt_ids)) for text in whole]


@STREAM
@pytest.mark.parametrize("echo", [False, True])
async def test_text_offsets_count_characters_of_what_is_shown(stream: bool, echo: bool) -> None:
    app = TextApp(FakeTokenSource(Answer([[token] for token in [*ids(TEXT), special("<|im_end|>"), *ids("d")]])))
    answer = await app.post(COMPLETIONS, prompt(prompt="ñx", logprobs=0, echo=echo, stream=stream))
    choices = [chunk["choices"][0] for chunk in events_of(answer)[:-1]] if stream else answer.json()["choices"]
    offsets = [offset for choice in choices for offset in (choice["logprobs"] or {"text_offset": []})["text_offset"]]
    tokens = [token for choice in choices for token in (choice["logprobs"] or {"tokens": []})["tokens"]]
    text = "".join(choice["text"] for choice in choices)
    assert text == ("ñx" if echo else "") + TEXT + "d"
    asked = app.source.asked[0].input_ids
    made = offsets_by_decoding(asked, [*ids(TEXT), special("<|im_end|>"), *ids("d")])
    base = len("ñx") if echo else 0
    assert offsets[-len(made) :] == [base + offset for offset in made]
    assert text[offsets[-1]] == "d"
    if echo:
        assert text[offsets[len(asked) - 1]] == "x"
    assert len(tokens) == len(offsets) == len(made) + (len(asked) if echo else 0)


async def test_tokens_are_named_by_id_where_a_client_asks_for_it() -> None:
    app = app_saying("one")
    asked = {"return_tokens_as_token_ids": True}
    entry = (await app.post(CHAT, chat(logprobs=True, top_logprobs=1, **asked))).json()["choices"][0]["logprobs"]
    names = [f"token_id:{token}" for token in ids("one")]
    assert [token["token"] for token in entry["content"]] == names
    assert [token["top_logprobs"][0]["token"] for token in entry["content"]] == names
    plain = (await app.post(COMPLETIONS, prompt(logprobs=1, **asked))).json()["choices"][0]["logprobs"]
    assert plain["tokens"] == names


async def test_logprobs_0_shows_the_token_itself() -> None:
    shown = (await app_saying("one").post(COMPLETIONS, prompt(logprobs=0))).json()["choices"][0]["logprobs"]
    assert shown["token_logprobs"] == [-0.5] * len(ids("one"))
    assert [list(top) for top in shown["top_logprobs"]] == [[token] for token in shown["tokens"]]


@ROUTES
@STREAM
async def test_a_stop_string_may_hold_a_special_token(path: str, body: dict[str, Any], stream: bool) -> None:
    stop = "<|im_start|>user"
    app = TextApp(FakeTokenSource(Answer([ids("one"), [special("<|im_start|>")], ids("user"), ids(" two")])))
    answer = await app.post(path, {**body, "stop": stop, "stream": stream})
    choice = events_of(answer)[-2]["choices"][0] if stream else answer.json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert " two" not in answer.text
    assert app.source.closed == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "demo", "input": "x"}),
        ("/v1/messages", {"model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/messages/count_tokens", {"model": "demo", "messages": [{"role": "user", "content": "x"}]}),
        ("/tokenize", {"prompt": "x"}),
        ("/detokenize", {"tokens": [5]}),
    ],
)
async def test_other_surfaces_name_what_they_ignore_too(path: str, body: dict[str, Any]) -> None:
    answer = await app_saying("a").post(path, {**body, "temprature": 0})
    assert (answer.status_code, answer.headers["x-pilotlight-ignored-fields"]) == (200, "temprature")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "demo", "input": "x"}),
        ("/v1/messages", {"model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
    ],
)
async def test_other_surfaces_have_openais_top_p_too(path: str, body: dict[str, Any]) -> None:
    app = app_saying("a")
    assert (await app.post(path, {**body, "top_p": 0})).status_code == 200
    assert app.source.asked[0].parameters.is_greedy
