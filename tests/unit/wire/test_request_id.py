"""Request ids: a fit one is kept, anything else is replaced."""

from __future__ import annotations

import pytest

from pilotlight_wire.http_exchange import joined_headers, request_id


@pytest.mark.parametrize("given", ["abc", "a" * 128, "0:1/2+3=4@5_6.7-8"])
def test_a_fit_id_is_kept(given: str) -> None:
    assert request_id(given) == given


@pytest.mark.parametrize("given", [None, "", "a" * 129, "a b", "a\nb", "é", "a\n", '"'])
def test_an_unfit_id_is_replaced(given: str | None) -> None:
    made = request_id(given)
    assert made != given
    assert len(made) == 32


def test_different_values_of_one_header_are_a_list_and_none_wins() -> None:
    raw = [(b"x-api-key", b"a"), (b"accept", b"*/*"), (b"x-api-key", b"b"), (b"x-api-key", b"a")]
    assert joined_headers(raw) == {"x-api-key": "a, b", "accept": "*/*"}
