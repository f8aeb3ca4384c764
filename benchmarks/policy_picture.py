"""The picture of one trace: both kinds of cold start against slot-hours, for every policy, and tenants per slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from pool_simulator.crowding import Crowd
from pool_simulator.frontier import Figures

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

_STYLES = ("k*-", "k+:", "C0o-", "C1v--", "C2^--", "C3s:", "C4d:", "C5x:", "C6.:")
_LEAST = 1e-4


def draw(
    title: str, sweeps: Mapping[str, Sequence[Figures]], crowds: Sequence[Crowd], bound_s: float, path: Path
) -> None:
    sheet, (boots, cold, crowded) = plt.subplots(1, 3, figsize=(15, 5))
    for (name, points), style in zip(sweeps.items(), _STYLES, strict=False):
        ranked = sorted(points, key=lambda point: point.slot_hours)
        hours = [point.slot_hours for point in ranked]
        boots.plot(hours, [100 * max(_LEAST, p.boot_rate) for p in ranked], style, label=name, markersize=4)
        cold.plot(hours, [100 * max(_LEAST, p.cold_rate) for p in ranked], style, markersize=4)
    _logarithmic(boots, "slot-hours held", "requests that wait for a boot (%)")
    _logarithmic(cold, "slot-hours held", "requests that wait > 1 s (%)")
    boots.legend(fontsize=7)
    for slots in dict.fromkeys(crowd.slots for crowd in crowds):
        own = [crowd for crowd in crowds if crowd.slots == slots]
        crowded.plot(
            [crowd.tenants for crowd in own],
            [max(0.01, crowd.p99_s) for crowd in own],
            "o-",
            label=f"{slots} slots",
            markersize=4,
        )
    crowded.axhline(bound_s, color="k", linewidth=0.8, linestyle=":")
    _logarithmic(crowded, "tenants", "p99 added latency (s)")
    crowded.legend(fontsize=7)
    sheet.suptitle(title, fontsize=10)
    sheet.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.savefig(path, dpi=110)
    plt.close(sheet)


def _logarithmic(axes: Axes, x: str, y: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, alpha=0.3)
