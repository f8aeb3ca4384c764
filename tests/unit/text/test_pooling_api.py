"""Embeddings, rerankings and scores over a source that counts tokens: shapes, limits, and what is refused by name."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from typing import Any

import pytest
from fake_token_source import FakeTokenSource
from inline_templates import InlineTemplates
from pooling_app import CLS, FIRST_WORD, LONGEST, SEP, SIZE, WORDS, PoolingApp, counts, words_tokenizer
from text_app import TextApp

from pilotlight_protocol.errors import Unavailable
from pilotlight_text.ignored_fields import IGNORED_HEADER
from pilotlight_text.pooling_api.pooling import CALLS_AT_ONCE, ROWS_AT_ONCE
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.templates.template_sources import template_source
from pilotlight_text.tokenization.tokenizer_jobs import longest_first

EMBEDDINGS, RERANK, SCORE = "/v1/embeddings", "/v1/rerank", "/v1/score"
DOCUMENTS = ["a dog ran", "the cat sat on the mat", "far away"]


def ids(text: str) -> list[int]:
    return [CLS, *(FIRST_WORD + WORDS.index(word) for word in text.split()), SEP]


async def embedded(body: dict[str, Any], app: PoolingApp | None = None) -> tuple[list[Any], PoolingApp]:
    app = app or PoolingApp("embed")
    response = await app.post(EMBEDDINGS, body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["object"] == "list"
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    return [entry["embedding"] for entry in answer["data"]], app


@pytest.mark.parametrize("path", ["/v1/embeddings", "/openai/v1/embeddings"])
async def test_a_text(path: str) -> None:
    app = PoolingApp("embed")
    response = await app.post(path, {"model": "demo", "input": "the cat", "user": "x"}, traceparent="00-1-1-01")
    answer = response.json()
    assert answer["data"] == [{"index": 0, "object": "embedding", "embedding": counts(ids("the cat"))}]
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0}
    assert answer["model"] == "demo"
    assert answer["id"].startswith("embd-")
    assert response.headers["x-pilotlight-lease"] == "path=warm"
    assert "prefill;dur=2.000" in response.headers["server-timing"]
    assert app.pooling.calls[0].metadata["traceparent"] == "00-1-1-01"


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (["the cat", "a dog"], [ids("the cat"), ids("a dog")]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
async def test_every_spelling_of_an_input(given: Any, rows: list[list[int]]) -> None:
    vectors, app = await embedded({"input": given})
    assert app.rows() == rows
    assert vectors == [counts(row) for row in rows]


async def test_special_tokens_are_left_out_when_told() -> None:
    _, app = await embedded({"input": "the cat", "add_special_tokens": False})
    assert app.rows() == [ids("the cat")[1:-1]]


async def test_base64_is_what_openais_client_decodes() -> None:
    vectors, _ = await embedded({"input": "the cat", "encoding_format": "base64"})
    assert struct.unpack(f"<{SIZE}f", base64.b64decode(vectors[0])) == tuple(counts(ids("the cat")))


async def test_parameters_reach_the_model() -> None:
    body = {
        "input": "cat",
        "dimensions": 3,
        "use_activation": False,
        "priority": 2,
        "cache_salt": "s",
        "request_id": "r",
    }
    vectors, app = await embedded(body)
    assert len(vectors[0]) == 3
    parameters = app.pooling.calls[0].parameters
    assert (parameters.dimensions, parameters.use_activation) == (3, False)
    assert (parameters.priority, parameters.cache_salt) == (2, "s")


async def test_many_inputs_are_read_some_at_a_time_and_answered_in_order() -> None:
    texts = [WORDS[place % len(WORDS)] for place in range(1000)]
    vectors, app = await embedded({"input": texts})
    assert vectors == [counts(ids(text)) for text in texts]
    assert max(len(call.rows) for call in app.pooling.calls) == ROWS_AT_ONCE
    assert app.pooling.most_running == CALLS_AT_ONCE
    assert len({call.request_id for call in app.pooling.calls}) == len(app.pooling.calls)


async def test_more_inputs_than_openai_takes_are_refused() -> None:
    response = await PoolingApp("embed").post(EMBEDDINGS, {"input": ["cat"] * 2049})
    assert (response.status_code, response.json()["error"]["param"]) == (413, "input")


async def test_an_answer_that_would_be_too_large_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotlight_text.pooling_api.pooling.MOST_VALUES", 64 * SIZE)
    app = PoolingApp("embed")
    assert (await app.post(EMBEDDINGS, {"input": ["cat"] * 65})).status_code == 413
    assert len(app.pooling.calls) == 1
    assert (await app.post(EMBEDDINGS, {"input": ["cat"] * 64})).status_code == 200


@pytest.mark.parametrize(
    ("text", "cut", "side", "wanted"),
    [
        ("the cat sat on a mat", 5, None, "the cat sat"),
        ("the cat sat on a mat", 5, "right", "the cat sat"),
        ("the cat sat on a mat", 5, "left", "on a mat"),
        ("the cat", 5, None, "the cat"),
        ("cat " * 30, -1, None, "cat " * (LONGEST - 2)),
    ],
)
async def test_a_long_text_is_cut_between_its_special_tokens(text: str, cut: int, side: Any, wanted: str) -> None:
    _, app = await embedded({"input": text, "truncate_prompt_tokens": cut, "truncation_side": side})
    assert app.rows() == [ids(wanted)]


async def test_long_token_ids_are_cut_as_they_are() -> None:
    _, app = await embedded({"input": [4, 5, 6, 7], "truncate_prompt_tokens": 2, "truncation_side": "left"})
    assert app.rows() == [[6, 7]]


async def test_a_text_may_fill_the_context_and_no_more() -> None:
    _, app = await embedded({"input": "cat " * (LONGEST - 2)})
    assert len(app.rows()[0]) == LONGEST
    response = await app.post(EMBEDDINGS, {"input": "cat " * (LONGEST - 1)})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "input", "context_length_exceeded")
    assert len(app.pooling.calls) == 1, "no engine is woken for it"


async def test_a_model_that_was_trained_on_lower_case() -> None:
    tokenizer = words_tokenizer()
    _, app = await embedded({"input": "The CAT"}, PoolingApp("embed", lower_case=True))
    assert app.rows() == [tokenizer.encode("the cat").ids]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, None),
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [[1], []]}, "input"),
        ({"input": [True]}, "input[0]"),
        ({"input": 7}, "input"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "input"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 2.5}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "encoding_format": "bytes"}, "encoding_format"),
        ({"input": "a", "embed_dtype": "float16"}, "embed_dtype"),
        ({"input": "a", "endianness": "big"}, "endianness"),
        ({"input": "a", "normalize": True}, "normalize"),
        ({"input": "a", "normalize": False}, "normalize"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"input": [5, -1]}, "input[1]"),
        ({"input": [5, 2**40]}, "input[1]"),
        ({"input": None}, "input"),
        ({"input": "a", "padding": "max_length"}, "padding"),
        ({"input": "a", "chat_template": "{{ x }}"}, "chat_template"),
        ({"input": "a", "mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": LONGEST + 1}, "truncate_prompt_tokens"),
        ({"input": "cat cat cat", "truncate_prompt_tokens": 2}, "truncate_prompt_tokens"),
    ],
)
async def test_what_is_wrong_is_named(body: dict[str, Any], param: str | None) -> None:
    app = PoolingApp("embed")
    response = await app.post(EMBEDDINGS, body)
    if param is None:
        assert response.status_code == 200, "two special tokens are a text"
        return
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert not app.pooling.calls


@pytest.mark.parametrize("path", [RERANK, "/openai/v1/rerank", "/rerank", "/v2/rerank"])
async def test_documents_are_ranked_by_a_cross_encoder(path: str) -> None:
    app = PoolingApp("classify")
    body = {"model": "demo", "query": "the cat on a mat", "documents": DOCUMENTS, "top_n": 2}
    response = await app.post(path, body)
    answer = response.json()
    assert answer["results"] == [
        {"index": 1, "relevance_score": 4.0, "document": {"text": DOCUMENTS[1]}},
        {"index": 0, "relevance_score": 1.0, "document": {"text": DOCUMENTS[0]}},
    ]
    pair = words_tokenizer().encode("the cat on a mat", DOCUMENTS[0])
    assert app.rows()[0] == pair.ids
    assert app.pooling.calls[0].rows[0].pair_start == pair.type_ids.index(1)
    assert answer["usage"]["total_tokens"] == sum(map(len, app.rows()))
    assert (answer["model"], answer["id"][:7]) == ("demo", "rerank-")


async def test_documents_may_be_objects_and_need_not_come_back() -> None:
    documents = [{"text": text} for text in DOCUMENTS]
    body = {"query": "dog", "documents": documents, "return_documents": False}
    results = (await PoolingApp("classify").post(RERANK, body)).json()["results"]
    assert [result["index"] for result in results] == [0, 1, 2]
    assert not any("document" in result for result in results)


async def test_without_a_cross_encoder_documents_are_ranked_by_cosine() -> None:
    app = PoolingApp("embed")
    results = (await app.post(RERANK, {"query": "the cat sat", "documents": DOCUMENTS})).json()["results"]
    assert results[0]["index"] == 1
    assert all(-1 <= result["relevance_score"] <= 1.000001 for result in results)
    assert len(app.rows()) == 4, "the query is read once"
    same = (await app.post(RERANK, {"query": "the cat", "documents": ["the cat"]})).json()["results"]
    assert same[0]["relevance_score"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
async def test_scores_of_one_with_many(names: tuple[str, str]) -> None:
    body = {names[0]: "the cat on a mat", names[1]: DOCUMENTS}
    answer = (await PoolingApp("classify").post(SCORE, body)).json()
    assert answer["data"] == [
        {"index": place, "object": "score", "score": score} for place, score in enumerate([1.0, 4.0, 0.0])
    ]


async def test_scores_of_pairs() -> None:
    app = PoolingApp("classify")
    for path in (SCORE, "/score", "/openai/v1/score"):
        body = {"text_1": ["the cat", "a dog"], "text_2": ["the dog", "a dog ran"]}
        assert [entry["score"] for entry in (await app.post(path, body)).json()["data"]] == [1.0, 2.0]


async def test_pairs_are_cut_where_they_are_asked_to_be() -> None:
    app = PoolingApp("classify")
    query, document = "the cat sat on a mat", "a dog ran far away the"
    assert (await app.post(SCORE, {"text_1": query, "text_2": document})).status_code == 400
    cut = {"text_1": query, "text_2": document, "truncate_prompt_tokens": 9}
    assert (await app.post(SCORE, cut)).status_code == 200
    tokenizer = words_tokenizer()
    tokenizer.enable_truncation(9, strategy="longest_first")
    assert app.rows()[-1] == tokenizer.encode(query, document).ids
    limits = {"text_1": query, "text_2": document, "max_tokens_per_query": 2, "max_tokens_per_doc": 3}
    assert (await app.post(SCORE, limits)).status_code == 200
    assert app.rows()[-1] == words_tokenizer().encode("the cat", "a dog ran").ids


@pytest.mark.parametrize("most", range(1, 14))
@pytest.mark.parametrize(("first", "second"), [(6, 5), (5, 6), (1, 9), (9, 1), (4, 4), (0, 9)])
def test_the_longer_text_is_cut_first(first: int, second: int, most: int) -> None:
    tokenizer = words_tokenizer()
    tokenizer.post_processor = None
    tokenizer.enable_truncation(most, strategy="longest_first")
    encoding = tokenizer.encode("cat " * first, "dog " * second)
    cat, dog = (FIRST_WORD + WORDS.index(word) for word in ("cat", "dog"))
    assert longest_first(first, second, most) == (encoding.ids.count(cat), encoding.ids.count(dog))


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (RERANK, {"query": "a"}, "documents"),
        (RERANK, {"query": "a", "documents": []}, "documents"),
        (RERANK, {"query": "a", "documents": [{"image": "x"}]}, "documents[0]"),
        (RERANK, {"query": {"text": "a"}, "documents": ["b"]}, "query"),
        (RERANK, {"query": "a", "documents": ["b"], "rank_fields": ["x"]}, "rank_fields"),
        (RERANK, {"query": "a", "documents": ["b"], "instruction": "x"}, "instruction"),
        (RERANK, {"query": "a", "documents": ["b"], "chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
        (RERANK, {"query": "a", "documents": ["b"], "top_n": -1}, "top_n"),
        (SCORE, {"text_1": "a"}, "text_1"),
        (SCORE, {"text_1": "a", "documents": "b"}, "text_1"),
        (SCORE, {"text_1": ["a", "b"], "text_2": "a"}, "text_1"),
        (SCORE, {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1"),
        (SCORE, {"text_1": "a", "text_2": []}, "text_2"),
    ],
)
async def test_what_cannot_be_ranked_is_named(path: str, body: dict[str, Any], param: str) -> None:
    app = PoolingApp("classify")
    response = await app.post(path, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not app.pooling.calls


async def test_a_classifier_of_many_labels_scores_nothing() -> None:
    app = PoolingApp("embed")
    traits = app.model._model.loaded().pooling
    assert traits is not None
    object.__setattr__(traits, "task", "classify")
    object.__setattr__(traits, "reads_pairs", True)
    response = await app.post(SCORE, {"text_1": "a", "text_2": "a"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")


CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
GENERATING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"model": "demo", "prompt": "hi"}),
    ("/v2/models/demo/generate", {"text_input": "hi"}),
    ("/v2/models/demo/generate_stream", {"text_input": "hi"}),
]


@pytest.mark.parametrize(("path", "body"), GENERATING)
async def test_a_pooling_model_generates_nothing_and_says_where_to_go(path: str, body: dict[str, Any]) -> None:
    response = await PoolingApp("embed").post(path, body)
    assert response.status_code == 400
    assert "this model makes embeddings and generates no text; use /openai/v1/embeddings" in response.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBEDDINGS, {"input": "a"}),
        (RERANK, {"query": "a", "documents": ["a"]}),
        (SCORE, {"text_1": "a", "text_2": "a"}),
    ],
)
async def test_a_model_that_generates_pools_nothing(path: str, body: dict[str, Any]) -> None:
    app = TextApp(FakeTokenSource())
    response = await app.post(path, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")
    assert "neither embeddings nor scores" in response.json()["error"]["message"]
    assert not app.source.asked


async def test_a_cross_encoder_embeds_nothing_and_says_where_to_go() -> None:
    response = await PoolingApp("classify").post(EMBEDDINGS, {"input": "a"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")
    assert "/rerank" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [{"input": "a"}, {"input": ["a"] * 100}])
async def test_a_model_without_an_engine_says_when_to_come_back(body: dict[str, Any]) -> None:
    response = await PoolingApp("embed", Unavailable("full", retry_after_s=7)).post(EMBEDDINGS, body)
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")


async def test_another_models_name() -> None:
    response = await PoolingApp("embed").post(EMBEDDINGS, {"model": "other", "input": "a"})
    assert response.status_code == 404


async def test_v2_over_texts() -> None:
    app = PoolingApp("embed")
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [2], "data": ["the cat", "a dog"]}
    answer = (await app.post("/v2/models/demo/infer", {"inputs": [tensor]})).json()
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("embedding", "FP32", [2, SIZE])
    assert output["data"] == [*counts(ids("the cat")), *counts(ids("a dog"))]
    assert answer["parameters"] == {"prompt_tokens": 8}
    async with app.client() as client:
        assert (await client.get("/v2/models/demo")).json()["outputs"] == [
            {"name": "embedding", "datatype": "FP32", "shape": [-1, -1]}
        ]


async def test_v2_over_pairs() -> None:
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [2, 2], "data": ["a cat", "a dog", "dog", "a dog"]}
    answer = (await PoolingApp("classify").post("/v2/models/demo/infer", {"inputs": [tensor]})).json()
    (output,) = answer["outputs"]
    assert (output["name"], output["shape"], output["data"]) == ("score", [2, 1], [1.0, 1.0])


@pytest.mark.parametrize(
    ("shape", "data", "parameters"),
    [
        ([1], ["a"], {"max_tokens": 1}),
        ([1], ["a"], {"truncate_prompt_tokens": 0}),
        ([1, 3], ["a", "b", "c"], {}),
        ([1, 2], ["a", "b"], {}),
        ([1], ["cat " * 50], {}),
    ],
)
async def test_v2_says_what_is_wrong(shape: list[int], data: list[str], parameters: dict[str, Any]) -> None:
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": shape, "data": data}
    app = PoolingApp("embed")
    response = await app.post("/v2/models/demo/infer", {"inputs": [tensor], "parameters": parameters})
    assert response.status_code == 400
    assert not app.pooling.calls


@pytest.mark.parametrize(
    ("task", "path", "body"),
    [
        ("embed", EMBEDDINGS, {"input": "a"}),
        ("embed", RERANK, {"query": "a", "documents": ["a"]}),
        ("embed", SCORE, {"text_1": "a", "text_2": "a"}),
    ],
)
async def test_fields_that_nobody_knows_are_named(task: Any, path: str, body: dict[str, Any]) -> None:
    response = await PoolingApp(task).post(path, body | {"dimesions": 2})
    assert (response.status_code, response.headers[IGNORED_HEADER]) == (200, "dimesions")
    assert IGNORED_HEADER not in (await PoolingApp(task).post(path, body)).headers


async def test_what_the_template_does_not_read_of_a_conversation_is_named_once() -> None:
    app = PoolingApp("embed")
    loaded = app.model._model.loaded()
    source = template_source("{% for m in messages %}{{ m.content }} {% endfor %}")
    template = ChatTemplate({"default": source}, {}, InlineTemplates(), max_output_chars=1000)
    app.model._model.set_loaded(replace(loaded, template=template))
    conversation = [{"role": "user", "content": "the cat", "name": "Ada"}]
    body = {"messages": [conversation, conversation], "chat_template_kwargs": {"mood": 1}}
    response = await app.post(EMBEDDINGS, body)
    assert (response.status_code, len(response.json()["data"])) == (200, 2)
    assert response.headers[IGNORED_HEADER] == "chat_template_kwargs.mood, messages.name"
