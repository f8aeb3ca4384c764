"""Rows of text in columns that stand below each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """`right`: the headings of columns of numbers. Nothing is cut; what a terminal would act on is shown instead."""
    shown = [headings, *([_plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in shown) for place in range(len(headings))]
    lines = []
    for row in shown:
        cells = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for heading, cell, width in zip(headings, row, widths, strict=True)
        ]
        lines.append(GAP.join(cells).rstrip())
    return "\n".join(lines)


def _plain(cell: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in cell)
