"""POST /tokenize and /detokenize: vLLM's shapes, against the tokenizers library and the model's own template."""

from __future__ import annotations

from typing import Any

import pytest
from fake_token_source import FakeTokenSource
from text_app import TextApp, demo_ids, demo_text, demo_tokenizer

from pilotlight_text.text_model import DEFAULT_CHARS_LIMIT

MESSAGES = [{"role": "user", "content": "hello"}]
BOTH = {"prompt": "x", "messages": MESSAGES}


async def asked(path: str, body: Any) -> tuple[int, Any]:
    app = TextApp(FakeTokenSource())
    response = await app.post(path, body)
    assert not app.source.asked, "no tokens are made for this: no engine is woken"
    return response.status_code, response.json()


def ids(text: str, *, special: bool = False) -> list[int]:
    return demo_ids(text, special)


@pytest.mark.parametrize("prefix", ["", "/v1", "/openai/v1"])
@pytest.mark.parametrize("special", [None, True, False])
async def test_a_prompt(prefix: str, special: bool | None) -> None:
    body = {"prompt": "Once upon", "model": "tuned", "add_special_tokens": special}
    status, answer = await asked(f"{prefix}/tokenize", body)
    wanted = ids("Once upon", special=special is not False)
    assert (status, answer) == (
        200,
        {"count": len(wanted), "tokens": wanted, "token_strs": None, "max_model_len": 512},
    )


async def test_the_tokens_as_the_vocabulary_spells_them() -> None:
    _, answer = await asked("/tokenize", {"prompt": "Once upon", "return_token_strs": True})
    tokenizer = demo_tokenizer()
    assert answer["token_strs"] == [tokenizer.id_to_token(token) for token in answer["tokens"]]
    assert "".join(answer["token_strs"]).endswith("Once\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}upon")


@pytest.mark.parametrize("begins", [True, False])
async def test_a_conversation_is_rendered_as_chat_renders_it(begins: bool) -> None:
    _, answer = await asked("/tokenize", {"messages": MESSAGES, "add_generation_prompt": begins})
    text = await demo_text().template.render(MESSAGES, add_generation_prompt=begins)
    assert answer["tokens"] == ids(text)


async def test_a_final_message_that_is_to_go_on_has_no_end() -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "Hi, I"}]
    _, open_ended = await asked("/tokenize", {"messages": messages, "continue_final_message": True})
    _, text = await asked("/detokenize", {"tokens": open_ended["tokens"]})
    assert text["prompt"].endswith("Hi, I")


async def test_text_longer_than_the_context_is_counted_and_too_long_is_refused() -> None:
    status, answer = await asked("/tokenize", {"prompt": "the cat " * 2000})
    assert (status, answer["count"]) == (200, len(ids("the cat " * 2000, special=True)))
    assert answer["count"] > answer["max_model_len"]
    status, answer = await asked("/tokenize", {"prompt": "a" * (DEFAULT_CHARS_LIMIT + 1)})
    assert (status, answer["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("text", ["", "h\N{LATIN SMALL LETTER E WITH ACUTE}llo  world\n", "\N{GRINNING FACE}" * 3000])
async def test_tokens_become_the_text_again(text: str) -> None:
    _, tokens = await asked("/tokenize", {"prompt": text, "add_special_tokens": False})
    assert await asked("/detokenize", {"tokens": tokens["tokens"]}) == (200, {"prompt": text})


async def test_special_tokens_are_shown() -> None:
    _, rendered = await asked("/tokenize", {"messages": MESSAGES})
    text = await demo_text().template.render(MESSAGES)
    assert await asked("/detokenize", {"tokens": rendered["tokens"]}) == (200, {"prompt": text})


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", BOTH, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"content": "x"}]}, "messages[0].role"),
        ("/tokenize", {"prompt": "x", "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"prompt": "x", "tools": [{"type": "function"}]}, "tools"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "{{ 1 }}"}, "chat_template"),
        ("/tokenize", {"messages": MESSAGES, "mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs"),
        (
            "/tokenize",
            {"messages": MESSAGES, "add_generation_prompt": True, "continue_final_message": True},
            "continue_final_message",
        ),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [0, 2_000_000]}, "tokens"),
        ("/detokenize", {"tokens": [0] * 262_145}, "tokens"),
    ],
)
async def test_what_is_wrong_is_named(path: str, body: Any, param: str) -> None:
    status, answer = await asked(path, body)
    assert status == 400
    assert answer["error"]["param"] == param


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_a_model_that_is_not_here(path: str) -> None:
    status, answer = await asked(path, {"model": "other", "prompt": "x", "tokens": [0]})
    assert (status, answer["error"]["param"]) == (404, "model")
