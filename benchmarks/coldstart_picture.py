"""Draws where the time of each path to the first token goes: one waterfall per path, each on its own scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SMALLEST_SHARE = 0.01
COLOURS = ("#34495e", "#2980b9", "#16a085", "#e67e22", "#8e44ad", "#c0392b", "#7f8c8d", "#27ae60")


def draw(paths: Mapping[str, Mapping[str, float]], title: str, target: Path) -> None:
    """`paths`: phase to seconds in order, by the path's title; a phase under 1 % of its path is not named."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {name: _merged(phases) for name, phases in paths.items()}
    heights = [max(2, len(phases)) + 1.5 for phases in shown.values()]
    figure, rows = plt.subplots(
        len(shown),
        1,
        figsize=(10, 0.26 * sum(heights) + 0.8),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axes, (name, phases) in zip(rows[:, 0], shown.items(), strict=True):
        unit, factor = ("s", 1.0) if sum(phases.values()) >= 1.0 else ("ms", 1000.0)
        begun = 0.0
        for place, (phase, seconds) in enumerate(phases.items()):
            length = factor * seconds
            axes.barh(place, length, left=begun, color=COLOURS[place % len(COLOURS)], height=0.8)
            axes.text(begun + length, place, f" {phase}  {length:.3g} {unit}", va="center", fontsize=7)
            begun += length
        axes.set_xlim(0, 1.35 * begun)
        axes.set_ylim(len(phases) - 0.4, -0.6)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.set_title(name, loc="left", fontsize=9, fontweight="bold")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(target, dpi=130)


def _merged(phases: Mapping[str, float]) -> dict[str, float]:
    """Runs of phases too short to be seen become one."""
    least = SMALLEST_SHARE * sum(phases.values())
    merged: dict[str, float] = {}
    for phase, seconds in phases.items():
        if seconds >= least:
            merged[phase] = seconds
        else:
            merged["other"] = merged.get("other", 0.0) + seconds
    return merged
