"""POST /responses over a fake source of tokens, through ASGI: whole, streamed, kept, continued, forgotten."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_token_source import Answer, FakeTokenSource
from surface_app import ids, named_events, prompt_of, saying
from text_app import TextApp

from pilotlight_protocol.errors import Unavailable
from pilotlight_text.ignored_fields import IGNORED_HEADER

RESPONSES = "/v1/responses"
ASK = {"model": "demo", "input": "hello"}


async def test_a_whole_response() -> None:
    app = saying("Once", " upon")
    response = await app.post("/openai/v1/responses", {**ASK, "instructions": "Be brief.", "metadata": {"a": "b"}})
    answer = response.json()
    assert response.status_code == 200
    (item,) = answer["output"]
    assert item["content"] == [{"type": "output_text", "text": "Once upon", "annotations": [], "logprobs": []}]
    assert (item["role"], item["status"], answer["status"]) == ("assistant", "completed", "completed")
    assert answer["instructions"] == "Be brief."
    assert answer["metadata"] == {"a": "b"}
    assert answer["usage"]["input_tokens"] == len(app.source.asked[0].input_ids)
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] == 1
    assert "system\nBe brief." in prompt_of(app)
    assert "prefill;dur=3.000" in response.headers["server-timing"]


async def test_an_answer_that_was_cut_is_incomplete() -> None:
    answer = (await saying("Once", reason="length").post(RESPONSES, {**ASK, "max_output_tokens": 1})).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"


async def test_the_events_of_a_stream() -> None:
    events = named_events(await saying("Once", " upon").post(RESPONSES, {**ASK, "stream": True}))
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done", "output_item.done"),
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["response"]["output"] == []
    assert events[-1]["response"]["output"] == [events[-2]["item"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_stand_with_their_text(stream: bool) -> None:
    body = {**ASK, "include": ["message.output_text.logprobs"], "top_logprobs": 1, "stream": stream}
    response = await saying("Once", " upon").post(RESPONSES, body)
    answer = named_events(response)[-1]["response"] if stream else response.json()
    logprobs = answer["output"][0]["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in logprobs) == "Once upon"
    assert logprobs[0]["top_logprobs"]


async def test_a_stream_that_breaks_fails_by_name_and_is_an_error_to_every_client() -> None:
    app = TextApp(FakeTokenSource(Answer([ids("Once")], error=Unavailable("lost"))))
    events = (await app.post(RESPONSES, {**ASK, "stream": True})).text.split("\n\n")
    failed = json.loads(events[-3].partition("\n")[2].removeprefix("data: "))
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "server_error", "message": "lost"}
    assert "lost" in json.loads(events[-2].removeprefix("data: "))["error"]["message"]
    first = failed["response"]["id"]
    assert (await app.post(RESPONSES, {**ASK, "previous_response_id": first})).status_code == 404


async def test_an_error_before_the_first_event_keeps_its_status() -> None:
    app = TextApp(FakeTokenSource(Answer([], error=Unavailable("full", retry_after_s=7))))
    response = await app.post(RESPONSES, {**ASK, "stream": True})
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_goes_on_from_a_stored_response(stream: bool) -> None:
    app = saying("Once", " upon")
    first = await app.post(RESPONSES, {**ASK, "instructions": "Be brief.", "stream": stream})
    before = (named_events(first)[-1]["response"] if stream else first.json())["id"]
    second = (await app.post(RESPONSES, {"model": "demo", "input": "go on", "previous_response_id": before})).json()
    third = await app.post(RESPONSES, {"model": "demo", "input": "more", "previous_response_id": second["id"]})
    assert third.status_code == 200
    prompt = prompt_of(app)
    assert prompt.count("Once upon") == 2
    assert prompt.index("hello") < prompt.index("go on") < prompt.index("more")
    assert "Be brief." not in prompt, "instructions do not go on"


async def test_what_is_stored_is_its_tenants_and_its_models() -> None:
    app = saying("a")
    made = (await app.post(RESPONSES, ASK, **{"x-pilotlight-tenant": "acme"})).json()["id"]
    go_on = {**ASK, "previous_response_id": made}
    assert (await app.post(RESPONSES, go_on, **{"x-pilotlight-tenant": "acme"})).status_code == 200
    for body, headers in (
        (go_on, {"x-pilotlight-tenant": "other"}),
        (go_on, {}),
        ({**go_on, "model": "tuned"}, {"x-pilotlight-tenant": "acme"}),
    ):
        response = await app.post(RESPONSES, body, **headers)
        assert response.status_code == 404
        assert response.json()["error"]["param"] == "previous_response_id"
        assert "acme" not in response.text
    async with app.client() as client:
        assert (await client.get(f"{RESPONSES}/{made}")).status_code == 404
        assert (await client.delete(f"{RESPONSES}/{made}")).status_code == 404
        own = await client.get(f"{RESPONSES}/{made}", headers={"x-pilotlight-tenant": "acme"})
    assert own.json()["id"] == made


async def test_nothing_is_stored_where_nothing_shall_be() -> None:
    app = saying("a")
    made = (await app.post(RESPONSES, {**ASK, "store": False})).json()
    assert made["store"] is False
    async with app.client() as client:
        assert (await client.get(f"{RESPONSES}/{made['id']}")).status_code == 404


async def test_reading_listing_and_forgetting() -> None:
    app = saying("a")
    items = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    made = (await app.post(RESPONSES, {**ASK, "input": [*items, {"role": "user", "content": "three"}]})).json()
    path = f"{RESPONSES}/{made['id']}"
    async with app.client() as client:
        assert (await client.get(path)).json() == made
        assert (await client.get(path, params={"stream": "true"})).status_code == 400
        page = (await client.get(f"{path}/input_items", params={"limit": 2})).json()
        assert [item["content"][0]["text"] for item in page["data"]] == ["three", "two"]
        assert page["has_more"]
        rest = await client.get(f"{path}/input_items", params={"after": page["last_id"], "order": "desc"})
        assert [item["content"] for item in rest.json()["data"]] == [[{"type": "input_text", "text": "one"}]]
        assert (await client.get(f"{path}/input_items", params={"limit": "0"})).status_code == 400
        assert (await client.post(f"{path}/cancel")).status_code == 400
        assert (await client.delete(path)).json() == {"id": made["id"], "object": "response", "deleted": True}
        for gone in (await client.get(path), await client.get(f"{path}/input_items"), await client.delete(path)):
            assert gone.status_code == 404
            assert gone.json()["error"]["type"] == "invalid_request_error"


async def test_what_nobody_knows_is_named() -> None:
    response = await saying("a").post(RESPONSES, {**ASK, "mood": "good", "text": {"tone": "warm"}})
    assert response.status_code == 200
    assert response.headers[IGNORED_HEADER] == "mood, text.tone"
    assert IGNORED_HEADER not in (await saying("a").post(RESPONSES, ASK)).headers


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": []}, "input"),
    ({"input": [{"role": "nobody", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type"),
    ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}, "input[0].encrypted_content"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "name": "no spaces"}]}, "tools[0].name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"include": ["everything"]}, "include[0]"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a"}, "text": {"format": {"type": "json_object"}}}, "structured_outputs"),
    ({"truncation": "sometimes"}, "truncation"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"input": "word " * 3000}, "input"),
    ({"metadata": {"k": "v" * 513}}, "metadata"),
]


@pytest.mark.parametrize(("changed", "param"), BAD)
async def test_what_cannot_be_done_is_refused_by_name(changed: dict[str, Any], param: str) -> None:
    app = saying("a")
    response = await app.post(RESPONSES, {**ASK, **changed})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert app.source.asked == []
