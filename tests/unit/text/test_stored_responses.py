"""The store of responses: bounded three ways, and nobody's find is another's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_text.responses_api.stored_responses import (
    PreviousResponseNotFound,
    ResponseNotFound,
    StoredResponse,
    StoredResponses,
)


def stored(
    name: str, previous: str | None = None, tenant: str = "a", model: str = "m", size: int = 0
) -> StoredResponse:
    items = b'[{"id": "%s"}]' % name.encode()
    return StoredResponse(tenant, model, name, previous, items, b"[]", b"x" * size)


def names(store: StoredResponses, previous: str, tenant: str = "a", model: str = "m", now_s: float = 0) -> list[str]:
    return [item["id"] for item in store.history(previous, tenant, model, now_s)]


def test_a_chain_is_read_from_its_beginning() -> None:
    store = StoredResponses()
    store.put(stored("1"), 0)
    store.put(stored("2", "1"), 0)
    store.put(stored("3", "2"), 0)
    assert names(store, "3") == ["1", "2", "3"]
    assert names(store, "2") == ["1", "2"]
    store.delete("2", "a", 0)
    with pytest.raises(PreviousResponseNotFound, match="'2'"):
        names(store, "3")


@pytest.mark.parametrize(("tenant", "model"), [("b", "m"), ("", "m"), ("a", "other")])
def test_another_tenant_and_another_model_find_nothing(tenant: str, model: str) -> None:
    store = StoredResponses()
    store.put(stored("1"), 0)
    with pytest.raises(PreviousResponseNotFound):
        names(store, "1", tenant, model)
    if tenant != "a":
        with pytest.raises(ResponseNotFound):
            store.get("1", tenant, 0)
        with pytest.raises(ResponseNotFound):
            store.delete("1", tenant, 0)
    assert store.get("1", "a", 0).response_id == "1"


def test_what_is_used_stays_and_what_is_not_goes() -> None:
    store = StoredResponses(max_responses=2, max_age_s=10)
    store.put(stored("1"), 0)
    store.put(stored("2"), 1)
    store.get("1", "a", 2)
    store.put(stored("3"), 3)
    with pytest.raises(ResponseNotFound):
        store.get("2", "a", 3)
    assert store.get("1", "a", 11).response_id == "1"
    with pytest.raises(ResponseNotFound):
        store.get("3", "a", 14)


def test_a_chain_that_goes_on_keeps_its_beginning() -> None:
    store = StoredResponses(max_age_s=10)
    store.put(stored("0"), 0)
    for turn in range(1, 6):
        assert len(names(store, str(turn - 1), now_s=turn * 8)) == turn
        store.put(stored(str(turn), str(turn - 1)), turn * 8)


def test_the_tenant_that_holds_most_makes_room() -> None:
    store = StoredResponses(max_bytes=10_000)
    store.put(stored("theirs", tenant="b"), 0)
    for number in range(20):
        store.put(stored(str(number), size=1500), number)
    assert store.get("theirs", "b", 20).response_id == "theirs"
    store.put(stored("too large", size=20_000), 21)
    with pytest.raises(ResponseNotFound):
        store.get("too large", "a", 21)
    assert store.get("19", "a", 21).response_id == "19", "what is too large pushes nobody out"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12345"), st.integers(0, 3000)), max_size=30))
def test_its_bounds_hold(puts: list[tuple[str, str, int]]) -> None:
    store = StoredResponses(max_responses=4, max_bytes=6000)
    for now_s, (tenant, name, size) in enumerate(puts):
        store.put(stored(f"{tenant}{name}", tenant=tenant, size=size), now_s)
        kept = [response for _, response in store._stored.values()]
        assert len(kept) <= 4
        assert sum(response.size_bytes for response in kept) == store._bytes.total() <= 6000
