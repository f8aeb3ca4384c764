"""Transformer, predictor and real vLLM with the bundled AWQ model: the `openai` client gets words, over both wires."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from component_process import RunningComponent
from transformer_process import transformer

pytestmark = pytest.mark.integration

MESSAGES: list[dict[str, str]] = [{"role": "user", "content": "Hello! Who are you?"}]


@pytest.fixture(scope="module", params=["v2", "grpc-v2"])
def client(
    request: pytest.FixtureRequest, predictor: RunningComponent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    log: Path = tmp_path_factory.mktemp("transformer") / "log"
    with (
        transformer(f"demo.localhost:{predictor.port}", log, f"--predictor_protocol={request.param}") as served,
        openai.OpenAI(base_url=served.base + "/openai/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def test_a_stream_and_a_whole_answer_are_the_same_words(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    assert text is not None
    assert len(text.split()) > 2
    chunks = client.chat.completions.create(**ask, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 24


def test_a_stop_string_cuts_the_same_text(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "demo", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 24}
    text = client.completions.create(**ask).choices[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    stopped = client.completions.create(**ask, stop=[stop])
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_what_the_engine_refuses_is_a_400(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="demo", prompt="Hi", max_tokens=1_000_000)
