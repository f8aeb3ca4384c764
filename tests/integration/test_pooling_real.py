"""A real embedding model and a cross-encoder, from text to vectors: both components as processes, vLLM on the CPU, held
against Hugging Face's transformers on the same texts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from component_process import running
from server_ports import free_port
from transformer_process import transformer

from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

BOOT_DEADLINE_S = 400.0
TEXTS = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "Zero",
    "A very long sentence about nothing in particular, " * 20,
    "\N{GRINNING FACE} caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{CJK UNIFIED IDEOGRAPH-5929}",
]
QUERY = "What is the capital of France?"
DOCUMENTS = ["Paris is the capital of France.", "Berlin is in Germany.", "Cats sleep most of the day."]


@pytest.fixture(scope="module")
def embedder(embedding_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    yield from _served(embedding_model, tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def cross_encoder(cross_encoder_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    yield from _served(cross_encoder_model, tmp_path_factory.mktemp("cross-encoder"))


def _served(model: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """The URLs of a transformer and of the predictor behind it."""
    port = free_port()
    argv = ["-m", "pilotlight_predictor", "--model_name=demo", f"--model_uri=file://{model}", f"--http_port={port}"]
    log = folder / "predictor.log"
    with running(argv, port, log, deadline_s=BOOT_DEADLINE_S, model_name="demo") as predictor:
        log = folder / "transformer.log"
        with transformer(f"127.0.0.1:{port}", log, model_uri=f"file://{model}") as component:
            yield component.base, predictor.base


def cosine(one: Any, other: Any) -> float:
    product: float = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


def oracle(model: Path, texts: list[str]) -> list[list[float]]:
    """Mean pooling and normalization, text by text, as the model's card does it."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    vectors = []
    for text in texts:
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.no_grad():
            hidden = network(**encoded).last_hidden_state[0]
        vectors.append(torch.nn.functional.normalize(hidden.mean(0), dim=0).tolist())
    return vectors


def test_embeddings_are_those_of_transformers(embedder: tuple[str, str], embedding_model: Path) -> None:
    client = openai.OpenAI(base_url=embedder[0] + "/openai/v1", api_key="unused", max_retries=0)
    # The client asks for base64 by itself.
    answer = client.embeddings.create(model="demo", input=TEXTS, extra_body={"truncate_prompt_tokens": -1})
    expected = oracle(embedding_model, TEXTS)
    for entry, wanted in zip(answer.data, expected, strict=True):
        assert cosine(entry.embedding, wanted) > 0.999
        assert entry.embedding == pytest.approx(wanted, abs=5e-3)
    lovely, sunny, stadium = (entry.embedding for entry in answer.data[:3])
    assert cosine(lovely, sunny) > cosine(lovely, stadium) + 0.2
    tokens = sum(len(ids) for ids in AutoTokenizer.from_pretrained(embedding_model)(TEXTS).input_ids)
    assert answer.usage.prompt_tokens <= tokens
    as_numbers = client.embeddings.create(model="demo", input=TEXTS[:1], encoding_format="float").data[0].embedding
    assert as_numbers == pytest.approx(lovely, abs=1e-6)
    assert math.hypot(*as_numbers) == pytest.approx(1.0, abs=1e-4)


def test_many_texts_are_answered_in_order(embedder: tuple[str, str]) -> None:
    texts = [f"number {place} of many" for place in range(300)]
    answer = httpx.post(embedder[0] + "/v1/embeddings", json={"input": texts}, timeout=120).json()
    assert [entry["index"] for entry in answer["data"]] == list(range(300))
    alone = httpx.post(embedder[0] + "/v1/embeddings", json={"input": texts[217]}, timeout=60).json()
    assert cosine(answer["data"][217]["embedding"], alone["data"][0]["embedding"]) > 0.9999


def test_texts_are_scored_by_cosine(embedder: tuple[str, str], embedding_model: Path) -> None:
    query, *documents = oracle(embedding_model, [QUERY, *DOCUMENTS])
    wanted = [cosine(query, document) for document in documents]
    body = {"text_1": QUERY, "text_2": DOCUMENTS}
    scored = httpx.post(embedder[0] + "/score", json=body, timeout=60).json()
    assert [entry["score"] for entry in scored["data"]] == pytest.approx(wanted, abs=5e-3)
    ranked = httpx.post(embedder[0] + "/v2/rerank", json={"query": QUERY, "documents": DOCUMENTS}, timeout=60).json()
    assert [entry["index"] for entry in ranked["results"]] == sorted(range(3), key=lambda place: -wanted[place])


def test_v2_is_the_same_on_both_sides(embedder: tuple[str, str], embedding_model: Path) -> None:
    of_text, of_tokens = embedder
    ids = AutoTokenizer.from_pretrained(embedding_model)(TEXTS[0]).input_ids
    tokens = {"name": "input_ids", "datatype": "INT32", "shape": [1, len(ids)], "data": ids}
    text = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": TEXTS[:1]}
    answers = [
        httpx.post(f"{base}/v2/models/demo/infer", json={"inputs": [tensor]}, timeout=60).json()["outputs"][0]
        for base, tensor in ((of_text, text), (of_tokens, tokens))
    ]
    assert [answer["shape"] for answer in answers] == [[1, 384], [1, 384]]
    assert answers[0]["data"] == pytest.approx(answers[1]["data"], abs=1e-5)
    wanted = httpx.get(f"{of_tokens}/v2/models/demo").json()["outputs"]
    assert wanted == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 384]}]


def test_what_it_is_not_is_refused_by_name(embedder: tuple[str, str]) -> None:
    of_text, of_tokens = embedder
    chat = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    for url, body in (
        (f"{of_text}/v1/chat/completions", chat),
        (f"{of_text}/v1/embeddings", {"input": "x", "dimensions": 8}),
        (f"{of_text}/v1/embeddings", {"input": "word " * 300}),
        (f"{of_tokens}/v2/models/demo/generate", {"input_ids": [1]}),
    ):
        assert httpx.post(url, json=body, timeout=60).status_code == 400


def test_over_grpc(embedder: tuple[str, str], embedding_model: Path, tmp_path: Path) -> None:
    host = embedder[1].removeprefix("http://")
    uri = f"file://{embedding_model}"
    with transformer(host, tmp_path / "log", "--predictor_protocol=grpc-v2", model_uri=uri) as component:
        answers = [
            httpx.post(base + "/v1/embeddings", json={"input": TEXTS[:3]}, timeout=60).json()["data"]
            for base in (component.base, embedder[0])
        ]
    for one, other in zip(*answers, strict=True):
        assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-5)


def test_documents_are_ranked_as_by_transformers(cross_encoder: tuple[str, str], cross_encoder_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(cross_encoder_model)
    network = AutoModelForSequenceClassification.from_pretrained(cross_encoder_model).eval()
    wanted = []
    for document in DOCUMENTS:
        with torch.no_grad():
            logits = network(**tokenizer(QUERY, document, return_tensors="pt")).logits
        wanted.append(float(torch.sigmoid(logits)[0, 0]))
    body = {"query": QUERY, "documents": DOCUMENTS}
    ranked = httpx.post(cross_encoder[0] + "/v1/rerank", json=body, timeout=60).json()["results"]
    assert [entry["index"] for entry in ranked] == sorted(range(3), key=lambda place: -wanted[place])
    for entry in ranked:
        assert entry["relevance_score"] == pytest.approx(wanted[entry["index"]], abs=5e-3)
    refused = httpx.post(cross_encoder[0] + "/v1/embeddings", json={"input": "x"}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
