"""What is wrong with a body's JSON is said in words that tell the cases apart."""

from typing import Any

import msgspec
import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.json_bodies import read_json

DECODER = msgspec.json.Decoder(dict[str, Any])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b" \r\n", "the body is empty"),
        (b'{"a": 1', "it ends after 7 bytes"),
        (b'{"a": "x', "it ends after 8 bytes"),
        (rb'{"a": "\ud800"}', r"\ud800 (byte 7) is half of a surrogate pair"),
        (rb'{"a": "\\\uDBFFx"}', r"\uDBFF (byte 9) is half of a surrogate pair"),
        (rb'{"a": "\\ud800', "it ends after 14 bytes"),
        (rb'{"a": "\ud83d\ude00', "it ends after 19 bytes"),
        (rb'{"a": "\udc00"}', "surrogate pair"),
        (rb'{"a": "\ud800\u0041"}', "surrogate pair"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": 1} x', "trailing characters"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b"[1]", "not a greeting: Expected `object`"),
    ],
)
def test_what_is_wrong(body: bytes, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_json(DECODER, memoryview(body), "a greeting")
    assert words in refused.value.message
    assert len(refused.value.message) < 200


def test_whole_pairs_and_escaped_backslashes_are_read() -> None:
    assert read_json(DECODER, rb'{"a": "\ud83d\ude00", "b": "\\ud800"}', "a greeting") == {"a": "😀", "b": r"\ud800"}
