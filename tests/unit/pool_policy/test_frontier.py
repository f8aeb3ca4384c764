"""Policies read off at equal slot-hours, which endpoints are replayed, and what is said where a trace is missing."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pool_simulator import crowding, trace_catalog
from pool_simulator.crowding import Crowd
from pool_simulator.frontier import Figures, at_slot_hours

POINT = Figures("p", "1", 1.0, 0.1, 0.2, 0.0, 1.0, 1, 0.0, 1)


@pytest.mark.parametrize(
    ("hours", "rate"),
    [(0.5, None), (1.0, 0.1), (2.0, 0.0316), (4.0, 0.01), (100.0, 0.01)],
    ids=["below its least", "a point", "between two, in the logarithms", "another point", "beyond its most"],
)
def test_a_sweep_is_read_off_between_its_points(hours: float, rate: float | None) -> None:
    sweep = [replace(POINT, slot_hours=4.0, boot_rate=0.01), POINT]
    found = at_slot_hours(sweep, hours, lambda point: point.boot_rate)
    assert found == (pytest.approx(rate, rel=0.01) if rate is not None else None)


def test_fewer_endpoints_are_a_part_of_more_with_all_their_requests() -> None:
    whole = trace_catalog.made_up()
    few, more = (trace_catalog.some_endpoints(whole, count) for count in (3, 8))
    names = [endpoint.name for endpoint in more.endpoints]
    assert [endpoint.name for endpoint in few.endpoints] == names[:3]
    in_whole = Counter(whole.endpoints[index].name for index in whole.endpoint_of)
    assert Counter(more.endpoints[index].name for index in more.endpoint_of) == {
        name: in_whole[name] for name in names if name in in_whole
    }


def test_tenants_are_counted_up_to_the_first_that_is_too_slow() -> None:
    rows = [(1, 2, 0.5), (1, 4, 1.9), (1, 8, 2.5), (1, 16, 1.0), (2, 4, 3.0)]
    found = [Crowd(*row) for row in rows]
    assert [crowding.most_tenants(found, slots, 2.0) for slots in (1, 2, 4)] == [4, 0, 0]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    llm = next(each for each in trace_catalog.PUBLIC if each.name == "azure-llm-2023")
    (tmp_path / "azure-llm-2023").mkdir()
    (tmp_path / "azure-llm-2023" / "code.csv").write_text("")
    assert llm.missing(tmp_path) == [tmp_path / "azure-llm-2023" / "conv.csv"]
