"""What a person sees of rows: columns below each other, and nothing that a terminal would act on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.command_line.text_table import text_table

CELLS = st.text(max_size=6)


def test_columns_stand_below_each_other() -> None:
    table = text_table(("NAME", "COST"), [("chat", "1.50"), ("a-long-one", "12.00")], right=("COST",))
    assert table.splitlines() == ["NAME         COST", "chat         1.50", "a-long-one  12.00"]


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_every_row_is_one_line_of_what_can_be_printed(rows: list[tuple[str, str]]) -> None:
    lines = text_table(("ONE", "TWO"), rows).split("\n")
    assert len(lines) == len(rows) + 1
    assert all(line.isprintable() for line in lines)
