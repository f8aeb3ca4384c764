"""Draws what gateways cost beside one another: a bar for each, a panel for each figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def draw(figures: Mapping[str, Mapping[str, float]], goals: Mapping[str, float], title: str, target: Path) -> None:
    """`figures`: by what they are figures of, by gateway. `goals`: of some of them, drawn as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(figures), 1, figsize=(9, 1.7 * len(figures)), layout="constrained")
    for axes, (what, by_gateway) in zip(panels, figures.items(), strict=True):
        names, values = list(by_gateway), list(by_gateway.values())
        bars = axes.barh(names, values, color="#2980b9", height=0.6)
        axes.bar_label(bars, [f" {value:,.3g}" if value < 1000 else f" {value:,.0f}" for value in values], fontsize=7)
        if max(values) > 10 * min(values):
            axes.set_xscale("log")
            axes.set_xlim(min(values) / 2, max(values) * 3)
        else:
            axes.set_xlim(0, max(values) * 1.2)
        axes.set_title(what, fontsize=8, loc="left")
        axes.invert_yaxis()
        axes.tick_params(labelsize=7)
        if what in goals:
            axes.axvline(goals[what], color="#c0392b", linestyle="--", linewidth=0.8, label="goal")
            axes.legend(fontsize=7, loc="lower right")
    figure.suptitle(title, fontsize=10)
    figure.savefig(target, dpi=130)
