"""Whose turn it is before one endpoint: fair by tokens, nobody starves, nothing grows, what leaves leaves nothing."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_gateway.priorities.endpoint_turns import EndpointTurns
from pilotlight_gateway.priorities.fair_band import Ticket
from pilotlight_gateway.priorities.queue_settings import QueueSettings
from pilotlight_gateway.priorities.upstream_capacity import UpstreamCapacity
from pilotlight_gateway.priorities.work_rate import RETRY_AFTER_MAX_S, WorkRate

HIGH, NORMAL, LOW, IDLE = range(4)
ROOMY = QueueSettings(waiting=10_000, waiting_of_tenant=10_000)


def turns(ceiling: int = 1, settings: QueueSettings = ROOMY) -> EndpointTurns:
    return EndpointTurns(settings, ceiling, 0.0)


def served(world: EndpointTurns, running: Ticket, number: int) -> list[Ticket]:
    """The next so many after the one that runs, one after another."""
    found: list[Ticket] = []
    while len(found) < number:
        world.end(running, running.tokens, "answered", 1.0)
        running = next(world.next(1.0))
        found.append(running)
    return found


def full(world: EndpointTurns, *tickets: Ticket) -> Ticket:
    """One runs, which is returned, and all others wait."""
    first = Ticket("first", HIGH, 1)
    assert world.enter(first, 0.0).goes
    for ticket in tickets:
        entered = world.enter(ticket, 0.0)
        assert not entered.goes
        assert entered.refusal is None
    return first


costs = st.integers(1, 500)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(costs, min_size=60, max_size=60), min_size=2, max_size=5), st.integers(20, 55))
def test_tenants_that_wait_are_never_further_apart_than_a_request_of_each(costs: list[list[int]], number: int) -> None:
    world = turns()
    first = full(world, *(Ticket(f"t{name}", NORMAL, cost) for name, line in enumerate(costs) for cost in line))
    taken = Counter({f"t{name}": 0 for name in range(len(costs))})
    longest = max(map(max, costs))
    for ticket in served(world, first, number):
        taken[ticket.tenant] += ticket.tokens
        assert max(taken.values()) - min(taken.values()) <= 2 * longest


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(costs, costs), min_size=80, max_size=80), st.integers(30, 70))
def test_what_was_estimated_wrongly_is_set_right(costs: list[tuple[int, int]], number: int) -> None:
    """One tenant's requests are taken to be dear and are not: it gets the same tokens, and so more requests."""
    world = turns()
    first = full(
        world, *(Ticket("wrong", NORMAL, guess) for guess, _ in costs), *(Ticket("right", NORMAL, t) for _, t in costs)
    )
    exact = iter([cost for _, cost in costs])
    taken = Counter(wrong=0, right=0)
    running, used = first, 1
    for _ in range(number):
        world.end(running, used, "answered", 1.0)
        running = next(world.next(1.0))
        used = next(exact) if running.tenant == "wrong" else running.tokens
        taken[running.tenant] += used
    assert abs(taken["wrong"] - taken["right"]) <= 4 * 500


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([HIGH, NORMAL, LOW]), costs), min_size=50, max_size=50), st.randoms())
def test_less_urgent_classes_get_their_share_while_others_wait(
    more: list[tuple[int, int]], order: random.Random
) -> None:
    world = turns(settings=QueueSettings(waiting=10_000, waiting_of_tenant=10_000, high_reserve=0.0))
    waiting = [Ticket("a", rank, cost) for rank in (HIGH, NORMAL, LOW) for cost in (100,) * 150]
    waiting += [Ticket("b", rank, cost) for rank, cost in more]
    order.shuffle(waiting)
    first = full(world, *waiting)
    taken = Counter[int]()
    for ticket in served(world, first, 120):
        taken[ticket.rank] += ticket.tokens
        assert taken[LOW] >= 0.05 * taken[HIGH] - 1000
        assert taken[NORMAL] >= 0.15 * taken[HIGH] - 1000
        assert taken[LOW] + taken[NORMAL] <= 0.3 * taken[HIGH] + 1500


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([HIGH, NORMAL, LOW, IDLE])), max_size=40))
def test_a_tenants_requests_of_a_class_keep_their_order(who: list[tuple[str, int]]) -> None:
    world = turns()
    tickets = [Ticket(tenant, rank, 1 + number % 7) for number, (tenant, rank) in enumerate(who)]
    first = full(world, *tickets)
    places = {ticket: number for number, ticket in enumerate(tickets)}
    last: dict[tuple[str, int], int] = {}
    for ticket in served(world, first, len(tickets)):
        assert places[ticket] > last.get((ticket.tenant, ticket.rank), -1)
        last[ticket.tenant, ticket.rank] = places[ticket]
    assert not world.waiting


def test_the_most_urgent_goes_first_and_idle_work_yields_to_everything() -> None:
    world = turns()
    first = full(world, *(Ticket("t", rank, 1) for rank in (IDLE, LOW, NORMAL, HIGH)))
    assert [ticket.rank for ticket in served(world, first, 4)] == [HIGH, NORMAL, LOW, IDLE]


def test_idle_work_starts_only_while_much_is_free() -> None:
    world = turns(8)
    assert [world.enter(Ticket("t", IDLE, 1), 0.0).goes for _ in range(6)] == [True] * 4 + [False] * 2
    assert all(world.enter(Ticket("t", LOW, 1), 0.0).goes for _ in range(4))


def test_a_little_room_is_kept_for_high_priority_while_there_is_any() -> None:
    alone, beside = turns(100), turns(100)
    beside.end(ticket := _entered(beside, HIGH), 1, "answered", 0.0)
    assert ticket.started_s == 0.0
    assert sum(alone.enter(Ticket("t", NORMAL, 1), 1.0).goes for _ in range(200)) == 100
    assert sum(beside.enter(Ticket("t", NORMAL, 1), 1.0).goes for _ in range(200)) == 96
    assert sum(beside.enter(Ticket("u", HIGH, 1), 1.0).goes for _ in range(10)) == 4


def _entered(world: EndpointTurns, rank: int) -> Ticket:
    ticket = Ticket("t", rank, 1)
    assert world.enter(ticket, 0.0).goes
    return ticket


class Full:
    """A queue of four, two for a tenant, and one runs."""

    def __init__(self) -> None:
        self.world = turns(settings=QueueSettings(waiting=4, waiting_of_tenant=2, waiting_bytes=400))
        full(self.world)

    def enter(self, tenant: str, rank: int, size_bytes: int = 1) -> tuple[Ticket, Ticket | None, bool | None]:
        """It, who had to leave for it, and whose fault it is that it may not wait."""
        ticket = Ticket(tenant, rank, 10, size_bytes)
        entered = self.world.enter(ticket, 0.0)
        return (
            ticket,
            None if entered.evicted is None else entered.evicted[0],
            None if entered.refusal is None else entered.refusal.of_tenant,
        )


def test_who_fills_its_own_part_is_told_so() -> None:
    queue = Full()
    assert [queue.enter("a", NORMAL)[1:] for _ in range(3)] == [(None, None), (None, None), (None, True)]
    assert queue.enter("b", NORMAL)[1:] == (None, None)


def test_a_tenants_more_urgent_request_takes_the_place_of_its_own_newest() -> None:
    queue = Full()
    queue.enter("a", LOW)
    newest, *_ = queue.enter("a", LOW)
    assert queue.enter("a", HIGH)[1:] == (newest, None)


def test_the_newest_of_the_least_urgent_leaves_for_who_is_more_urgent() -> None:
    queue = Full()
    queue.enter("a", IDLE)
    queue.enter("a", NORMAL)
    queue.enter("b", LOW)
    newest, *_ = queue.enter("b", LOW)
    idle_left = queue.enter("c", NORMAL)[1]
    assert idle_left is not None
    assert idle_left.rank == IDLE
    assert queue.enter("c", NORMAL)[1:] == (newest, None)
    assert queue.enter("d", LOW)[1:] == (None, False)


def test_among_equals_the_longest_queue_gives_way() -> None:
    queue = Full()
    newest = [queue.enter(tenant, NORMAL)[0] for tenant in ("a", "b", "a", "b")][2:]
    assert queue.enter("c", NORMAL)[1] in newest
    assert queue.enter("d", NORMAL)[1] in newest
    assert queue.enter("e", NORMAL)[1:] == (None, False)


def test_nobody_leaves_for_a_body_that_does_not_fit_then() -> None:
    queue = Full()
    queue.enter("a", LOW, 200)
    queue.enter("b", LOW, 150)
    assert queue.enter("c", HIGH, 300)[1:] == (None, False)
    assert queue.world.waiting == 2


events = st.lists(
    st.tuples(
        st.sampled_from(["enter", "end", "give_up"]),
        st.sampled_from("abcd"),
        st.integers(0, 3),
        st.integers(1, 50),
        st.integers(0, 60),
        st.integers(1, 3),
    ),
    max_size=120,
)


@settings(max_examples=80, deadline=None)
@given(events, st.integers(1, 4))
def test_bounds_hold_work_goes_on_and_nothing_is_left(
    steps: list[tuple[str, str, int, int, int, int]], slots: int
) -> None:
    limits = QueueSettings(waiting=6, waiting_of_tenant=3, waiting_bytes=150, waiting_bytes_of_tenant=100)
    world = turns(slots, limits)
    running: list[Ticket] = []
    waiting: list[Ticket] = []

    def pump() -> None:
        for ticket in world.next(1.0):
            waiting.remove(ticket)
            running.append(ticket)

    for what, tenant, rank, tokens, size, weight in steps:
        if what == "enter":
            ticket = Ticket(tenant, rank, tokens, size, weight)
            entered = world.enter(ticket, 1.0)
            if entered.evicted is not None:
                waiting.remove(entered.evicted[0])
            if entered.goes:
                running.append(ticket)
            elif entered.refusal is None:
                waiting.append(ticket)
            else:
                assert 1 <= entered.refusal.retry_after_s <= RETRY_AFTER_MAX_S
        elif what == "end" and running:
            world.end(running.pop(tokens % len(running)), size, "answered", 1.0)
        elif what == "give_up" and waiting:
            gone = waiting.pop(tokens % len(waiting))
            assert world.give_up(gone)
            assert not world.give_up(gone)
        pump()
        assert world.waiting == len(waiting) <= 6
        assert world.in_flight == sum(ticket.weight for ticket in running)
        assert sum(ticket.size_bytes for ticket in waiting) <= 150
        assert all(sum(ticket.tenant == name for ticket in waiting) <= 3 for name in "abcd")
        assert running or not waiting
    while running or waiting:
        world.end(running.pop(), 1, "answered", 1.0)
        pump()
    assert world.is_unused
    assert not world._bytes
    assert not world._bytes_of


def test_an_upstream_that_refuses_is_believed_and_asked_for_more_later() -> None:
    capacity = UpstreamCapacity(64)
    for _ in range(5):
        capacity.refused(0.0, 40, 1.0)
    assert capacity.limit == 36
    for _ in range(36):
        capacity.answered(int(capacity.limit))
    assert 36.9 < capacity.limit < 37.1
    for _ in range(10_000):
        capacity.answered(64)
    assert capacity.limit == 64
    for now_s in range(100):
        capacity.refused(now_s, 64, now_s + 0.5)
    assert capacity.limit == 8
    capacity.set_ceiling(128)
    assert capacity.limit == 16


def test_who_is_turned_away_is_told_a_later_time_each() -> None:
    rate = WorkRate(0.0)
    assert rate.turned_away(10, 1e9, 0.0) == 5
    for now_s in range(100):
        rate.done(100, float(now_s))
    assert rate.per_s(99.0) == pytest.approx(100, rel=0.1)
    told = [rate.turned_away(200, 1000, 99.0) for _ in range(40)]
    assert told == sorted(told)
    assert told[0] == pytest.approx(10, rel=0.1)
    assert told[-1] == RETRY_AFTER_MAX_S


class Overload:
    """An endpoint of so many slots on a clock of its own; clients come at random, and never again."""

    def __init__(self, slots: int, seed: int = 7) -> None:
        self.slots = slots
        self.chance = random.Random(seed)

    def run(self, load: float, seconds: float) -> tuple[float, dict[int, list[float]]]:
        """Tokens done in a second, and how long those that ran had waited, by class."""
        world = EndpointTurns(QueueSettings(), self.slots, 0.0)
        waited: dict[int, list[float]] = {HIGH: [], NORMAL: [], LOW: []}
        came: dict[Ticket, float] = {}
        ends: list[tuple[float, int, Ticket]] = []
        now, done, number = 0.0, 0, 0
        arrivals_per_s = load * self.slots
        following = self.chance.expovariate(arrivals_per_s)

        def start(ticket: Ticket) -> None:
            nonlocal number
            number += 1
            waited[ticket.rank].append(now - came.pop(ticket))
            heapq.heappush(ends, (now + ticket.tokens / 100, number, ticket))

        while now < seconds:
            if ends and ends[0][0] < following:
                now, _, ended = heapq.heappop(ends)
                done += ended.tokens
                world.end(ended, ended.tokens, "answered", now)
                for ticket in world.next(now):
                    start(ticket)
                continue
            now = following
            following += self.chance.expovariate(arrivals_per_s)
            rank = self.chance.choices([HIGH, NORMAL, LOW], [0.02, 0.38, 0.6])[0]
            ticket = Ticket(f"t{self.chance.randrange(12)}", rank, self.chance.randint(50, 150))
            came[ticket] = now
            entered = world.enter(ticket, now)
            if entered.goes:
                start(ticket)
        return done / seconds, waited


def test_five_times_what_it_can_answer() -> None:
    """An answer takes a slot for about a second; no slot does more than 100 tokens in one."""
    goodput, waited = Overload(64).run(5.0, 60)
    assert goodput >= 0.95 * 64 * 100
    high = sorted(waited[HIGH])
    assert high[int(len(high) * 0.99)] < 0.05
    assert len(waited[LOW]) > 0.04 * sum(map(len, waited.values()))
