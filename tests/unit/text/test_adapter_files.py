"""What an adapter's folder changes of its base's text, and what of it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inline_templates import InlineTemplates
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from pilotlight_models import bundled_model_path
from pilotlight_text.templates.template_sources import template_sources
from pilotlight_text.text_model import LoadedText
from pilotlight_text.tokenization.adapter_files import read_adapter_files, with_template_of
from pilotlight_text.tokenization.adapter_tokens import tokenizer_obstacle
from pilotlight_text.tokenization.text_loading import load_text
from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError, read

BASE = "bundled://demo-bf16"
WORDS = {"a": 0, "b": 1, "c": 2}


def tokenizer(*special: str, words: dict[str, int] = WORDS) -> Tokenizer:
    made = Tokenizer(WordLevel(words, unk_token="a"))
    made.add_special_tokens([AddedToken(text) for text in special])
    return made


@pytest.mark.parametrize(
    "place", ["chat_template.jinja", "tokenizer_config.json", "additional_chat_templates/rag.jinja"]
)
def test_an_adapter_that_brings_a_template_is_rendered_with_no_other(tmp_path: Path, place: str) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    (adapter / "additional_chat_templates").mkdir(parents=True)
    (base / "additional_chat_templates").mkdir(parents=True)
    (base / "tokenizer.json").write_text("{}")
    (base / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "chat_template": "base"}))
    (base / "chat_template.jinja").write_text("base")
    (base / "additional_chat_templates" / "tools.jinja").write_text("base")
    files = read(base)
    assert with_template_of(read_adapter_files(adapter), files) == files, "it brings none"
    (adapter / place).write_text(json.dumps({"chat_template": "own"}) if place.endswith("json") else "own")
    found = with_template_of(read_adapter_files(adapter), files)
    sources = template_sources(found.tokenizer_config, found.template, found.named_templates)
    assert {source.source.strip() for source in sources.values()} == {"own"}
    assert (found.tokenizer_json, found.tokenizer_config["bos_token"]) == (b"{}", "<s>")


def test_an_adapters_broken_template_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "tokenizer_config.json").write_text("[")
    with pytest.raises(TokenizerFilesError, match=r"the adapter's tokenizer_config\.json is not valid JSON"):
        read_adapter_files(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (tokenizer("<s>", "</s>"), ""),
        (tokenizer("<s>", "<|im_end|>"), ""),
        (tokenizer("<s>", "</s>", "<call>"), ""),
        (tokenizer("<s>", "</s>", "<call>", "<end>"), "no weights for (1, the first is '<end>')"),
        (tokenizer("<s>", "</s>", words={"a": 0, "c": 1, "b": 2}), "token 1 is 'b' to the base's tokenizer and 'c'"),
        (tokenizer(words={"a": 0, "b": 1}), "token 2 is 'c' to the base's tokenizer and nothing"),
        (tokenizer("x", words=WORDS | {"d" * 1000: 3, "e" * 1000: 90}), "no weights for"),
    ],
    ids=["same", "renamed", "into a free row", "no row", "other words", "fewer words", "a word far away"],
)
def test_a_tokenizer_of_its_own_has_the_bases_words_and_no_more_than_it_has_weights_for(
    own: Tokenizer, words: str
) -> None:
    found = tokenizer_obstacle(tokenizer("<s>", "</s>"), own, rows=6)
    assert (words in found, bool(found), len(found) < 300) == (True, bool(words), True), found


def loaded(folder: Path, **files: Any) -> LoadedText:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return load_text(BASE, None, InlineTemplates(), {}, adapter_uri=str(folder))


def demo_tokenizer(change: Any = lambda parts: None) -> str:
    parts = json.loads((bundled_model_path("demo-bf16") / "tokenizer.json").read_text(encoding="utf-8"))
    change(parts)
    return json.dumps(parts)


async def test_a_text_is_tokenized_as_the_adapter_was_trained(tmp_path: Path) -> None:
    def lower(parts: dict[str, Any]) -> None:
        parts["normalizer"] = {"type": "Lowercase"}

    base = load_text(BASE, None, InlineTemplates(), {})
    own = loaded(tmp_path / "a", tokenizer=demo_tokenizer(lower))
    assert await own.codec.encode("HELLO", add_special_tokens=False) == await base.codec.encode(
        "hello", add_special_tokens=False
    )
    copied = loaded(tmp_path / "b", tokenizer=demo_tokenizer())
    assert await copied.codec.encode("HELLO", add_special_tokens=False) == await base.codec.encode(
        "HELLO", add_special_tokens=False
    )


def _one_more(parts: dict[str, Any]) -> None:
    most = max(parts["model"]["vocab"].values())
    parts["added_tokens"].append({
        "id": max(most, *(each["id"] for each in parts["added_tokens"])) + 1, "content": "<call>", "special": True,
        "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tokenizer": demo_tokenizer(_one_more)}, "no weights for .1, the first is '<call>'"),
        ({"tokenizer": "{"}, "the adapter's tokenizer.json cannot be read"),
        ({"added_tokens": {"<call>": 2048}}, "'<call>' as token 2048"),
        ({"tokenizer_config": {"added_tokens_decoder": {"2048": {"content": "<call>"}}}}, "'<call>' as token 2048"),
    ],
)
def test_tokens_that_its_base_does_not_have_are_refused_by_name(
    tmp_path: Path, files: dict[str, Any], words: str
) -> None:
    with pytest.raises(TokenizerFilesError, match=words) as refused:
        loaded(tmp_path / "a", **files)
    assert str(tmp_path) not in str(refused.value)


def test_what_says_nothing_new_changes_nothing(tmp_path: Path) -> None:
    decoder = {"x": {"content": "<call>"}, "9" * 5000: {"content": "y"}, "1": [], "2": {"content": 3}}
    odd = {"added_tokens_decoder": decoder, "eos_token": ["<call>"]}
    assert loaded(tmp_path / "a", tokenizer_config=odd, added_tokens={"<call>": "x"}).end is None


def test_an_adapter_that_ends_its_answers_otherwise_than_its_base_ends_there(tmp_path: Path) -> None:
    """Trained on chats, over a base that was trained on texts: the engine knows the base's end alone."""
    files = read(bundled_model_path("demo-bf16"))
    base_end = files.tokenizer_config["eos_token"]
    token = Tokenizer.from_buffer(files.tokenizer_json)
    other = next(text for text in token.get_vocab() if text != base_end)
    assert loaded(tmp_path / "a", tokenizer_config={"eos_token": other}).end == token.token_to_id(other)
    assert loaded(tmp_path / "b", special_tokens_map={"eos_token": {"content": other}}).end == token.token_to_id(other)
    assert loaded(tmp_path / "c", tokenizer_config={"eos_token": base_end}).end is None
    assert loaded(tmp_path / "d").end is None
