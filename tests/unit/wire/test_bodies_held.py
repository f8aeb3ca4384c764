"""Whose request bodies fill a server's memory: all of them are bounded, and no tenant keeps others out."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_protocol.errors import TooManyRequests, Unavailable
from pilotlight_wire.bodies_held import BodiesHeld, HeldBytes

MOST = 1000
STEPS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 400), st.booleans()), max_size=40)


def request_of(held: BodiesHeld, tenant: str) -> HeldBytes:
    made = HeldBytes(held)
    made.tenant = tenant
    return made


@given(steps=STEPS)
def test_whatever_comes_and_goes_the_sums_are_right_and_a_newcomer_gets_in(steps: list[tuple[str, int, bool]]) -> None:
    held, running = BodiesHeld(MOST), list[HeldBytes]()
    for tenant, size, ends in steps:
        if ends and running:
            running.pop(size % len(running)).give_back()
            continue
        request = request_of(held, tenant)
        with contextlib.suppress(TooManyRequests, Unavailable):
            request.take(size)
            running.append(request)
        assert sum(held.of_tenants.values()) == held.held_bytes <= MOST
        assert 0 not in held.of_tenants.values()
    newcomer, free = request_of(held, "new"), MOST - held.held_bytes
    newcomer.take(free // 2)
    for request in (newcomer, *running):
        request.give_back()
        request.give_back()
    assert (held.held_bytes, held.of_tenants) == (0, {})


def greedy(held: BodiesHeld, tenant: str, running: dict[str, list[HeldBytes]]) -> None:
    """Takes all that it gets, a byte at a time."""
    with contextlib.suppress(TooManyRequests, Unavailable):
        while True:
            request = request_of(held, tenant)
            request.take(1)
            running.setdefault(tenant, []).append(request)


@pytest.mark.parametrize("others", [0, 1, 2, 4, 9])
def test_who_is_alone_has_half_and_among_others_all_come_to_equal_shares(others: int) -> None:
    held, running = BodiesHeld(MOST), dict[str, list[HeldBytes]]()
    tenants = [f"t{number}" for number in range(others + 1)]
    greedy(held, tenants[0], running)
    assert held.of_tenants == {"t0": MOST // 2}
    for _ in range(400):  # some of everybody's requests end, and everybody takes what there is
        for tenant in tenants:
            for request in [running[tenant].pop() for _ in range(min(5, len(running.get(tenant, []))))]:
                request.give_back()
        for tenant in tenants:
            greedy(held, tenant, running)
    share = MOST / (others + 2)
    for tenant in tenants:
        assert held.of_tenants[tenant] == pytest.approx(share, abs=share / 2 + 5)
    assert MOST - held.held_bytes >= share / 2


def test_nobodys_are_bounded_by_the_whole_alone() -> None:
    held = BodiesHeld(MOST)
    HeldBytes(held).take(MOST)
    with pytest.raises(Unavailable):
        HeldBytes(held).take(1)


def test_a_refusal_takes_nothing() -> None:
    held = BodiesHeld(MOST)
    request = request_of(held, "a")
    request.take(400)
    with pytest.raises(TooManyRequests) as refused:
        request.take(101)
    assert refused.value.retry_after_header == "1"
    assert "b" not in held.of_tenants
    request.take(100)
    assert held.of_tenants == {"a": 500}
