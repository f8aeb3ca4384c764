"""What a replica still has to tell: told once it was heard, given up never, added up when it is too much."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_gateway.limits.calendar_periods import DAY_S, day_of
from pilotlight_gateway.limits.held_reservations import GIVEN_BACK, HeldReservation, HeldReservations

NOON_S = 1_795_867_200


def held(tokens: int = 10, *, told: bool = False, tenant: str = "team", second: int = NOON_S) -> HeldReservation:
    return HeldReservation(tenant, second, tokens, told)


def test_an_end_waits_until_it_was_heard() -> None:
    reservations = HeldReservations("p")
    reservations.hold("a", held(told=True))
    reservations.end("a", 7)
    reservations.end("a", 8)
    batch = reservations.tell_ended(10)
    assert [(ended.id, ended.tokens) for ended in batch] == [("a", 7)]
    assert reservations.tell_ended(10) == batch
    reservations.told(batch)
    assert reservations.tell_ended(10) == []


def test_what_never_ran_is_told_only_to_who_may_know_of_it() -> None:
    reservations = HeldReservations("p")
    for name, told in (("a", True), ("b", False)):
        reservations.hold(name, held(told=told))
        reservations.end(name, GIVEN_BACK)
    assert [ended.id for ended in reservations.tell_ended(10)] == ["a"]


def test_what_is_renewed_is_known_from_then_on() -> None:
    reservations = HeldReservations("p")
    reservations.hold("a", held())
    ((tenant, open_ones),) = reservations.open_by_tenant.items()
    assert (tenant, [name for name, _ in open_ones]) == ("team", ["a"])
    reservations.tell_open(["a", "ended meanwhile"])
    reservations.end("a", GIVEN_BACK)
    assert [ended.id for ended in reservations.tell_ended(10)] == ["a"]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 3 * DAY_S), st.integers(0, 50), st.booleans()), max_size=60
    )
)
def test_no_token_is_lost_however_much_waits(ends: list[tuple[str, int, int, bool]]) -> None:
    reservations, known = HeldReservations("p", most_waiting=5), set()
    taken: dict[tuple[str, int], int] = {}
    for number, (tenant, later_s, tokens, told) in enumerate(ends):
        second = NOON_S + later_s
        reservations.hold(str(number), held(told=told, tenant=tenant, second=second))
        reservations.end(str(number), tokens)
        taken[tenant, day_of(second)] = taken.get((tenant, day_of(second)), 0) + tokens
        if told:
            known.add(str(number))
    waiting = reservations.tell_ended(1000)
    # By its own id, whoever may be known by it; of the rest no more than a sum for each tenant and day.
    assert known <= {ended.id for ended in waiting}
    assert len(waiting) <= len(known) + 5 + len(taken)
    told_sums: dict[tuple[str, int], int] = {}
    for ended in waiting:
        key = ended.tenant, day_of(ended.second)
        told_sums[key] = told_sums.get(key, 0) + ended.tokens
    assert told_sums == taken
