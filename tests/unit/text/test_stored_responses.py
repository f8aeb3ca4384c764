"""The store of responses: bounded three ways, and nobody's find is another's."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.responses_api.response_store import LONGEST_ON_THE_LOOP_BYTES, read_items
from pilotlight_text.responses_api.stored_responses import (
    MAX_CHAIN_BYTES,
    PreviousResponseNotFound,
    ResponseNotFound,
    StoredResponse,
    StoredResponses,
    items_of,
)


def stored(
    name: str, previous: str | None = None, tenant: str = "a", model: str = "m", size: int = 0
) -> StoredResponse:
    items = b'[{"id": "%s"}]' % name.encode()
    return StoredResponse(tenant, model, name, previous, items, b"[]", b"x" * size)


def names(store: StoredResponses, previous: str, tenant: str = "a", model: str = "m", now_s: float = 0) -> list[str]:
    return [item["id"] for item in json.loads(store.history(previous, tenant, model, now_s))]


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


WRITTEN = st.builds(
    lambda items, indent: json.dumps(items, indent=indent).encode(),
    st.lists(st.dictionaries(st.text(max_size=3), st.text("],[ x", max_size=3), max_size=2), max_size=3),
    st.none() | st.just(1),
)


@given(st.lists(st.tuples(WRITTEN, WRITTEN), max_size=4))
async def test_the_items_of_a_chain_are_those_of_its_responses_in_their_order(kept: list[tuple[bytes, bytes]]) -> None:
    chain = [StoredResponse("a", "m", "1", None, asked, made, b"{}") for asked, made in kept]
    items = [item for pair in reversed(kept) for part in pair for item in json.loads(part)]
    assert json.loads(items_of(chain)) == items == await read_items(items_of(chain))


async def test_many_items_are_read_beside_the_loop() -> None:
    history = json.dumps([{"text": "x" * 100}] * (LONGEST_ON_THE_LOOP_BYTES // 100)).encode()
    reading = asyncio.ensure_future(read_items(history))
    await asyncio.sleep(0)
    assert not reading.done()
    assert await reading == json.loads(history)


def test_a_chain_of_too_many_bytes_is_refused_with_what_to_do_about_it() -> None:
    store, half = StoredResponses(), b'[{"a": "%s"}]' % (b"x" * (MAX_CHAIN_BYTES // 2 - 20))
    for name, previous in (("1", None), ("2", "1"), ("3", "2")):
        store.put(StoredResponse("a", "m", name, previous, half, b"[]", b"{}"), 0)
    assert len(json.loads(store.history("2", "a", "m", 0))) == 2
    with pytest.raises(InvalidInput, match="send the items that are still needed in 'input'") as refused:
        store.history("3", "a", "m", 0)
    assert (refused.value.http_status, refused.value.param) == (400, "previous_response_id")
