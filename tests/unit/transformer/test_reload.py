"""Loading a model's text again."""

from __future__ import annotations

from typing import Any, cast

import pytest
from fake_token_source import FakeTokenSource
from inline_templates import InlineTemplates
from text_app import demo_text

from pilotlight_text.answer_parts.format_choice import NamedParsers
from pilotlight_transformer import served_text_model
from pilotlight_transformer.__main__ import _load
from pilotlight_transformer.settings import TransformerSettings


async def test_loading_again_takes_all_that_the_first_loading_took(monkeypatch: pytest.MonkeyPatch) -> None:
    from pilotlight_text.tokenization import text_loading

    settings = TransformerSettings(
        "m",
        "bundled://demo-awq",
        "nowhere",
        adapter_uri="file:///adapter",
        max_model_len=128,
        parsers=NamedParsers("hermes"),
        environment={"PILOTLIGHT_STORE": "/store"},
    )
    taken: list[tuple[Any, ...]] = []

    def noted(*arguments: Any) -> Any:
        taken.append(arguments)
        return demo_text()

    monkeypatch.setattr(text_loading, "load_text", noted)
    monkeypatch.setattr(served_text_model, "load_text", noted)
    templates = cast(Any, InlineTemplates())
    _load(settings, templates)
    await served_text_model.ServedTextModel(settings, FakeTokenSource(), templates).load()
    assert len(taken) == 2
    assert taken[0] == taken[1]
