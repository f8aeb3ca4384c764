"""Draws a run of churn over time: what completed and what failed, what was killed, how long leases were waited for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from churn_harness.tally import Happening

_BIN_S = 5.0
_COLOURS = {
    "engine": "#c0392b",
    "stream": "#e67e22",
    "service": "#8e44ad",
    "zygote": "#d4ac0d",
    "agent": "#e84393",
    "coordinator": "#6c5ce7",
    "predictor": "#2980b9",
    "pause": "#7f8c8d",
    "freeze": "#2c3e50",
}


def draw(happened: Sequence[Happening], duration_s: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 6), sharex=True, layout="constrained")
    edges = [_BIN_S * number for number in range(int(duration_s / _BIN_S) + 8)]
    for kind, label, colour in (
        ("completed", "completed, as the oracle says", "#27ae60"),
        ("failure", "clean failures", "#e74c3c"),
    ):
        at_s = [each.at_s for each in happened if each.kind == kind]
        weights = [1 / _BIN_S] * len(at_s)
        top.hist(at_s, edges, weights=weights, histtype="stepfilled", alpha=0.7, label=label, color=colour)
    top.set_ylabel("requests per second")
    for kind in dict.fromkeys(each.detail for each in happened if each.kind == "kill"):
        for number, kill in enumerate(each for each in happened if each.kind == "kill" and each.detail == kind):
            name = f"kill: {kind}" if number == 0 else None
            colour = _COLOURS.get(kind, "black")
            top.axvline(kill.at_s, color=colour, linewidth=0.8, linestyle="--", label=name)
            bottom.axvline(kill.at_s, color=colour, linewidth=0.8, linestyle="--")
    top.legend(fontsize=7, ncols=5, loc="upper center")
    top.set_ylim(top=1.35 * top.get_ylim()[1])
    for path_name, colour in (
        ("loaded", "#27ae60"),
        ("swap", "#2980b9"),
        ("fork", "#e67e22"),
        ("join", "#16a085"),
        ("boot", "#c0392b"),
    ):
        leases = [each for each in happened if each.kind == "lease" and each.detail == path_name]
        if leases:
            waits_s = [max(each.took_s, 1e-3) for each in leases]
            bottom.scatter([each.at_s for each in leases], waits_s, s=8, label=path_name, color=colour)
    bottom.set_yscale("log")
    bottom.set_ylim(top=20 * bottom.get_ylim()[1])
    bottom.set_xlim(0, max((each.at_s for each in happened), default=duration_s) + _BIN_S)
    bottom.set_ylabel("lease wait, s")
    bottom.set_xlabel("seconds")
    bottom.legend(fontsize=7, ncols=5, loc="upper center")
    figure.savefig(path, dpi=120)
