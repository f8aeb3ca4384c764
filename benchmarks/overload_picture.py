"""Draws an overload second by second: tokens that were delivered, and how long first tokens took, by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

COLOURS = {"high": "#c0392b", "normal": "#2980b9", "low": "#16a085"}


def draw(
    tokens_per_s: Sequence[float],
    peak_per_s: float,
    first_s: Mapping[str, Sequence[tuple[float, float]]],
    unloaded_s: float,
    title: str,
    target: Path,
) -> None:
    """`first_s`: by class, (when it was asked, seconds to its first token). `unloaded_s`: p99 of high before it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(10, 5.5), sharex=True, layout="constrained")
    above.plot(range(len(tokens_per_s)), tokens_per_s, color="#34495e", linewidth=1)
    above.axhline(peak_per_s, color="#7f8c8d", linestyle="--", linewidth=0.8)
    above.text(0, peak_per_s, " peak", va="bottom", fontsize=7)
    above.set_ylabel("tokens/s delivered", fontsize=8)
    above.set_ylim(0, 1.2 * max(peak_per_s, *tokens_per_s))
    for name, points in first_s.items():
        below.scatter(*zip(*points, strict=True), s=3, color=COLOURS[name], label=name)
    below.axhline(unloaded_s, color="#7f8c8d", linestyle="--", linewidth=0.8)
    below.text(0, unloaded_s, " high, unloaded, p99", va="bottom", fontsize=7)
    below.set_yscale("log")
    below.set_ylabel("s to the first token", fontsize=8)
    below.set_xlabel("s", fontsize=8)
    below.legend(fontsize=7, loc="center right")
    for axes in (above, below):
        axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    figure.savefig(target, dpi=130)
