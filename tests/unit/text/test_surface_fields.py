"""Every field that OpenAI's, Anthropic's and vLLM's requests have is done, refused by name, or said to have no effect:
an upgrade of theirs cannot add one that is dropped in silence."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import msgspec
import pytest
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming

from pilotlight_text.anthropic_api import requests as messages
from pilotlight_text.responses_api import requests as responses
from pilotlight_text.responses_api.requests import ResponsesRequest


def vllms(module: str, name: str) -> set[str]:
    """The fields of a class of vLLM's, read and not imported: importing vLLM takes seconds."""
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.origin is not None
    tree = ast.parse((Path(found.origin).parent / module).read_text())
    (kind,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    fields = [node.target for node in kind.body if isinstance(node, ast.AnnAssign)]
    assert len(fields) > 4
    return {field.id for field in fields if isinstance(field, ast.Name)}


RESPONSES = "entrypoints/openai/responses/protocol.py"
MESSAGES = "entrypoints/anthropic/protocol.py"


def test_the_fields_of_responses() -> None:
    known = set(ResponsesRequest.__struct_fields__)
    assert set(get_type_hints(ResponseCreateParamsStreaming)) - known == set()
    assert vllms(RESPONSES, "ResponsesRequest") - known - {"model_config"} == set()


def test_the_fields_of_messages() -> None:
    known = set(messages.MessagesRequest.__struct_fields__)
    assert set(get_type_hints(MessageCreateParamsStreaming)) - known == set()
    assert vllms(MESSAGES, "AnthropicMessagesRequest") - known - {"model_config"} == set()
    counted = set(messages.CountTokensRequest.__struct_fields__)
    assert set(get_type_hints(MessageCountTokensParams)) - counted == set()
    assert vllms(MESSAGES, "AnthropicCountTokensRequest") - counted - {"model_config"} == set()


def read_by_name(module: ModuleType) -> set[str]:
    """The names that the surface's modules read off a request, or list to be read."""
    assert module.__file__ is not None
    source = "".join(path.read_text() for path in Path(module.__file__).parent.glob("*.py"))
    listed = source.partition("_PARAMETERS = (")[2].partition("\n)")[0]
    return set(re.findall(r"request\.(\w+)", source)) | set(re.findall(r'"(\w+)"', listed))


@pytest.mark.parametrize(("module", "kind"), [(responses, ResponsesRequest), (messages, messages.MessagesRequest)])
def test_what_is_neither_refused_nor_without_effect_is_read(module: ModuleType, kind: type[msgspec.Struct]) -> None:
    accepted = set(kind.__struct_fields__) - set(module.UNSUPPORTED) - set(module.WITHOUT_EFFECT)
    assert accepted - read_by_name(module) == set()


@pytest.mark.parametrize(
    ("module", "fields"),
    [
        (responses, set(ResponsesRequest.__struct_fields__)),
        (messages, set(messages.MessagesRequest.__struct_fields__)),
    ],
)
def test_the_lists_name_fields_that_there_are(module: object, fields: set[str]) -> None:
    refused, ignored = vars(module)["UNSUPPORTED"], vars(module)["WITHOUT_EFFECT"]
    assert set(refused) <= fields
    assert {name.partition(".")[0] for name in ignored} <= fields
    assert set(refused) & set(ignored) == set()
