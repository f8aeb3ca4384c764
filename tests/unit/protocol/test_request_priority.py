"""What a class of priority comes to in an engine's own order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilotlight_protocol.generation import INT32_MAX, GenerationParameters
from pilotlight_protocol.pooling import PoolingParameters
from pilotlight_protocol.request_priority import PRIORITIES, PRIORITY_HEADER, in_class

own = st.integers(-INT32_MAX, INT32_MAX)


@given(st.lists(own, min_size=4, max_size=4))
def test_no_request_leaves_its_class(owns: list[int]) -> None:
    found = [
        in_class(GenerationParameters(priority=own), {PRIORITY_HEADER: name}).priority
        for own, name in zip(owns, PRIORITIES, strict=True)
    ]
    assert found == sorted(set(found))


@given(st.integers(-499, 499), st.integers(-499, 499), st.sampled_from(PRIORITIES))
def test_in_a_class_its_own_priority_decides(one: int, other: int, name: str) -> None:
    first, second = (in_class(PoolingParameters(priority=own), {PRIORITY_HEADER: name}) for own in (one, other))
    assert (first.priority < second.priority) == (one < other)


@given(own, st.sampled_from([{}, {PRIORITY_HEADER: "urgent"}]))
def test_where_no_gateway_said_a_class_the_request_decides(own: int, headers: dict[str, str]) -> None:
    assert in_class(GenerationParameters(priority=own), headers).priority == own
