"""Greedy-dual: who goes first, who never goes, and how what is not used ages."""

from hypothesis import given
from hypothesis import strategies as st

from pilotlight_protocol.greedy_dual import Entry, Victims, choose, priority


def test_the_cheapest_to_bring_back_for_its_size_goes_first() -> None:
    sizes_and_costs = {"small and slow": (10, 8.0), "large and fast": (50, 4.0), "middle": (30, 6.0)}
    entries = [Entry(key, size, priority(0.0, 1, cost_s, size)) for key, (size, cost_s) in sizes_and_costs.items()]
    assert choose(entries, 20, 0.0) == Victims(("large and fast",), 50, 4.0 / 50)
    assert choose(entries, 0, 3.0) == Victims((), 0, 3.0)


def test_what_is_no_longer_used_is_overtaken_by_the_clock() -> None:
    often = Entry("often", 1, priority(0.0, 5, 1.1, 1))
    clock, survived = 0.0, 0
    while choose([often, new := Entry("new", 1, priority(clock, 1, 1.0, 1))], 1, clock).keys == ("new",):
        clock, survived = choose([often, new], 1, clock).clock, survived + 1
    assert survived == 5


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 60.0), st.booleans()), max_size=20),
    st.integers(-5, 400),
    st.floats(0.0, 100.0),
)
def test_there_is_room_or_everything_that_may_go_is_not_enough(
    parts: list[tuple[int, float, bool]], short: int, clock: float
) -> None:
    entries = {str(n): Entry(str(n), size, worth, kept) for n, (size, worth, kept) in enumerate(parts)}
    victims = choose(entries.values(), short, clock)
    chosen = [entries[key] for key in victims.keys]
    assert not any(entry.kept for entry in chosen)
    assert victims.freed == sum(entry.size for entry in chosen)
    may_go = sum(entry.size for entry in entries.values() if not entry.kept)
    assert victims.freed >= short or victims.freed == may_go
    assert not chosen or victims.freed - chosen[-1].size < short
    assert victims.clock == max([clock, *(entry.priority for entry in chosen)])
