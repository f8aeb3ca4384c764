"""A key: its shape, what is stored of it, and who never gets to see it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.tenants.api_keys import ID_BYTES, SECRET_BYTES, ApiKey, new_key, parse_key

KEYS = st.builds(
    new_key, st.binary(min_size=ID_BYTES, max_size=ID_BYTES), st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)
)


@given(KEYS)
def test_a_key_is_read_as_it_was_made(key: ApiKey) -> None:
    read = parse_key(key.shown)
    assert read == key
    assert read.is_of(key.digest)


@given(KEYS, KEYS)
def test_keys_of_other_bytes_are_others(one: ApiKey, other: ApiKey) -> None:
    assert (one == other) == one.is_of(other.digest) == (one.shown == other.shown)


@given(KEYS, st.integers(min_value=0, max_value=57), st.sampled_from("0aZ_!é"))
def test_a_key_with_one_wrong_character_is_none(key: ApiKey, place: int, character: str) -> None:
    broken = key.shown[:place] + character + key.shown[place + 1 :]
    assert broken == key.shown or parse_key(broken) is None


@pytest.mark.parametrize("text", ["", "plk_", "sk-abc", "plk_" + "a" * 54, "Bearer plk_x"])
def test_what_is_no_key_is_none(text: str) -> None:
    assert parse_key(text) is None


@given(KEYS)
def test_a_key_shows_itself_to_nobody(key: ApiKey) -> None:
    secret = key.shown.removeprefix(f"plk_{key.id}_")
    for shown in (str(key), repr(key), f"{key}", f"{key!r}", str([key])):
        assert secret not in shown
    assert not key.is_of(None)
    assert not key.is_of(bytes(32))
    assert secret.encode() not in key.digest


def test_the_secret_has_more_than_192_random_bits() -> None:
    assert SECRET_BYTES * 8 >= 192
    last = b"\xff" * SECRET_BYTES
    assert parse_key(new_key(bytes(ID_BYTES), last).shown) is not None
