"""The demo tokenizer and chat template: lossless for any text, and usable to test detokenizers."""

import json

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from pilotlight_model_making.byte_level_tokenizer import chat_text, train_tokenizer
from pilotlight_model_making.chat_corpus import Message
from pilotlight_models import BUNDLED_MODELS, bundled_model_path

FOLDER = bundled_model_path("demo-awq")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.mark.parametrize(
    "text",
    [
        "Once upon a time, there was a small fox.",
        "  two spaces,\ttabs\nand lines \n",
        "Grüße aus München, à bientôt, ¡mañana!",
        "从前，有一只小熊住在森林里。",
        "🔥🚀👩‍🚀 and a flag 🇩🇪",
        "def add(a, b):\n    return a + b\n",
        "\u0000 \u200d \ufeff",
    ],
)
def test_any_text_survives_encoding_and_decoding(tokenizer, text) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("character", ["🔥", "火", "模"])
def test_one_character_is_cut_into_several_tokens(tokenizer, character) -> None:
    ids = tokenizer.encode(character).ids
    assert len(ids) > 1
    assert "\ufffd" in tokenizer.decode(ids[:-1])


def test_no_token_is_added_before_or_after_a_prompt(tokenizer) -> None:
    assert tokenizer.encode("").ids == []
    assert tokenizer.token_to_id("<|endoftext|>") not in tokenizer.encode("Once upon a time").ids


def test_special_tokens_are_single_tokens(tokenizer) -> None:
    assert tokenizer.encode("<|im_start|>user").ids[0] == tokenizer.token_to_id("<|im_start|>")


def test_the_vocabulary_is_as_large_as_the_embedding(tokenizer) -> None:
    assert tokenizer.get_vocab_size() == json.loads((FOLDER / "config.json").read_text())["vocab_size"]


def test_both_models_have_the_same_tokenizer() -> None:
    files = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    contents = [[(bundled_model_path(name) / file).read_bytes() for file in files] for name in BUNDLED_MODELS]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_the_chat_template_renders_what_the_model_was_trained_on(add_generation_prompt) -> None:
    messages = [Message("system", "Be kind."), Message("user", " Hi \n"), Message("assistant", "Hello!")]
    template = json.loads((FOLDER / "tokenizer_config.json").read_text())["chat_template"]
    rendered = ImmutableSandboxedEnvironment().from_string(template)
    context = {
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "add_generation_prompt": add_generation_prompt,
    }
    assert rendered.render(context) == chat_text(messages, add_generation_prompt)


def test_too_little_text_for_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="add text or lower the vocabulary"):
        train_tokenizer(["hello world"], vocab_size=2048)
