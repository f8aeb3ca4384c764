"""Responses and Messages before predictor and real vLLM (the bundled AWQ model): chat's words, and formats held to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from component_process import RunningComponent
from transformer_process import transformer

pytestmark = pytest.mark.integration

MESSAGES: list[dict[str, str]] = [{"role": "user", "content": "Hello! Who are you?"}]


@pytest.fixture(scope="module")
def client(predictor: RunningComponent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    log = tmp_path_factory.mktemp("transformer") / "log"
    with (
        transformer(f"demo.localhost:{predictor.port}", log) as served,
        openai.OpenAI(base_url=served.base + "/openai/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def test_every_surface_says_the_same_words(client: Any) -> None:
    ask: dict[str, Any] = {"model": "demo", "temperature": 0}
    chat = client.chat.completions.create(**ask, messages=MESSAGES, max_tokens=16)
    text = chat.choices[0].message.content
    response = client.responses.create(**ask, input=MESSAGES, max_output_tokens=16)
    assert response.output_text == text
    events = list(client.responses.create(**ask, input=MESSAGES, max_output_tokens=16, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    host = str(client.base_url).removesuffix("/openai/v1/")
    messages: Any = MESSAGES
    extra = {"temperature": 0}
    with anthropic.Anthropic(base_url=host, api_key="none", max_retries=0) as claude:
        message = claude.messages.create(model="demo", messages=messages, max_tokens=16, extra_body=extra)
        counted = claude.messages.count_tokens(model="demo", messages=messages)
        with claude.messages.stream(model="demo", messages=messages, max_tokens=16, extra_body=extra) as stream:
            assert "".join(stream.text_stream) == text
    assert [block.text for block in message.content if block.type == "text"] == [text]
    assert chat.usage.prompt_tokens == counted.input_tokens == response.usage.input_tokens


class Sky(pydantic.BaseModel):
    color: str
    clouds: bool


def test_a_response_is_held_to_its_format(client: Any) -> None:
    parsed = client.responses.parse(
        model="demo", input="The sky?", text_format=Sky, max_output_tokens=200, temperature=0
    )
    assert isinstance(parsed.output_parsed, Sky) or parsed.status == "incomplete"
    format_of: Any = {"format": {"type": "json_schema", "name": "yes", "schema": {"type": "boolean"}}}
    told = client.responses.create(model="demo", input="Yes?", text=format_of, max_output_tokens=16)
    assert told.output_text.strip() in ("true", "false")
