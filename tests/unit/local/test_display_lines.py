"""Events as lines, and the waterfall of a cold request."""

from pilotlight_local.embedded.display_lines import failure_lines, scaling_line, waterfall_lines
from pilotlight_wire.hop_headers import Phase


def test_a_waterfall_puts_phases_one_after_the_other_and_shows_what_no_phase_explains() -> None:
    lines = waterfall_lines("cold", [Phase("activate", 500.0, "transformer"), Phase("prefill", 250.0)], 1000.0)
    assert [line.split()[0] for line in lines] == ["cold", "activate", "prefill", "answer", "total"]
    bars = [line for line in lines if "█" in line]
    starts = [bar.index("█") for bar in bars]
    assert [bar.count("█") for bar in bars] == [20, 10, 10]
    assert [start - starts[0] for start in starts] == [0, 20, 30]


def test_phases_longer_than_the_request_do_not_break_the_drawing() -> None:
    lines = waterfall_lines("cold", [Phase("activate", 5000.0), Phase("prefill", 5000.0)], 10.0)
    assert len({len(line) <= 100 for line in lines}) == 1


def test_scaling_and_failure_lines() -> None:
    assert scaling_line("demo-00001", 0, 1, ["first", "why"]) == "demo-00001: 0 -> 1 pods (why)"
    assert scaling_line("demo-00001", 1, 0, []) == "demo-00001: 1 -> 0 pods"
    assert failure_lines("pod", "exited with code 4", ["boom"]) == ["pod: exited with code 4", "    | boom"]
