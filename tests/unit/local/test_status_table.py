"""The table of `pilotlight status` as text, on terminals of many widths: nothing that names something is cut."""

import io

import pytest
from rich.console import Console

from pilotlight_local.controller.platform_status import ComponentPhase, ComponentStatus
from pilotlight_local.embedded.status_table import status_table

LONG = "an-endpoint-whose-name-has-forty-four-letter"
REASON = "exited with code 4 before it was ready: there is no tokenizer.json in [the folder] /mnt/models"


def row(endpoint: str, component: str, phase: ComponentPhase = "Ready", reason: str = "") -> ComponentStatus:
    revision = f"{endpoint}-{component}-00001"
    path = f"/serving/default/{endpoint}/" if component == "transformer" else ""
    return ComponentStatus("default", endpoint, component, revision, phase, 1, 1, 2, 3, 100, path, "", reason, ())


def text(rows: list[ComponentStatus], width: int, most_rows: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(status_table(rows, 8080, width, most_rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


QUICKSTART = [row("quickstart", "transformer"), row("quickstart", "predictor", "Zero")]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (60, "ENDPOINT REVISION PHASE PODS REQUESTS"),
        (80, "ENDPOINT REVISION PHASE PODS REQUESTS TRAFFIC"),
        (120, "ENDPOINT COMPONENT REVISION PHASE PODS REQUESTS TRAFFIC"),
        (200, "ENDPOINT COMPONENT REVISION PHASE PODS REQUESTS TRAFFIC URL"),
    ],
)
def test_columns_give_way_and_an_empty_reason_takes_no_room(width: int, headings: str) -> None:
    lines = text(QUICKSTART, width).splitlines()
    assert lines[0].split() == headings.split()
    assert len(lines) == 3
    assert lines[1].split()[0] == "default/quickstart"
    assert "transformer-00001" in lines[1]


@pytest.mark.parametrize("width", [*range(40, 220, 7), 60, 80, 120, 200])
@pytest.mark.parametrize("reason", ["", REASON])
def test_names_and_reasons_are_whole(width: int, reason: str) -> None:
    shown = text([row(LONG, "transformer", "Failed", reason), row("b", "predictor", "Starting")], width)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    heading, *lines = shown.splitlines()
    endpoint_columns = heading.index("REVISION" if "COMPONENT" not in heading else "COMPONENT")
    name = "".join(line[:endpoint_columns].strip() for line in lines)
    assert f"default/{LONG}" in name
    assert "".join(reason.split()) in "".join(shown.split()) or "REASON" in heading
    assert ("REASON" in heading) <= bool(reason)


def test_a_wide_terminal_has_the_reason_beside() -> None:
    lines = text([row("a", "transformer", "Failed", REASON), row("a", "predictor")], 250).splitlines()
    assert lines[0].split()[-1] == "REASON"
    assert lines[1].rstrip().endswith(REASON)


def test_those_at_zero_are_left_out_first() -> None:
    shown = text([row("a", "predictor", "Zero"), row("b", "predictor"), row("c", "predictor", "Failed")], 80, 2)
    assert "default/a" not in shown
    assert {"default/b", "default/c"} <= set(shown.split())
    assert "and 1 more" in shown
