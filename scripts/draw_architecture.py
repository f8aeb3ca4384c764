"""Draws docs/pictures/processes.png and docs/pictures/request.png: python scripts/draw_architecture.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

OUT = Path(__file__).parents[1] / "docs" / "pictures"
INK, LINE = "#20242c", "#5b6472"
POD, PLATFORM, POOL, ENGINE = "#dcebff", "#eef0f4", "#e3f5e4", "#ffeccf"


@dataclass(frozen=True)
class Box:
    x: float
    y: float
    title: str
    text: str
    colour: str
    width: float = 2.3
    height: float = 1.0

    def draw(self, axes: Axes) -> None:
        axes.add_patch(
            FancyBboxPatch(
                (self.x, self.y), self.width, self.height, boxstyle="round,pad=0.04,rounding_size=0.08",
                facecolor=self.colour, edgecolor=LINE, linewidth=1.0,
            )
        )  # fmt: skip
        middle = self.x + self.width / 2
        axes.text(
            middle, self.y + self.height - 0.22, self.title, ha="center", va="center", fontsize=9.5, weight="bold"
        )
        axes.text(
            middle, self.y + (self.height - 0.3) / 2, self.text, ha="center", va="center", fontsize=7.6, color=INK
        )


def arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float], text: str, up: float = 0.1) -> None:
    axes.annotate("", end, begin, arrowprops={"arrowstyle": "-|>", "color": LINE, "linewidth": 1.2})
    middle = ((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2 + up)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    axes.text(*middle, text, ha="center", va="bottom", fontsize=7.4, color=INK, linespacing=1.25, bbox=box)


def sheet(width: float, height: float) -> Axes:
    _, axes = plt.subplots(figsize=(width, height))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return axes


def processes() -> None:
    axes = sheet(14.1, 5.6)
    boxes = {
        "client": Box(0.2, 3.9, "client", "OpenAI, V2,\ngenerate, gRPC", "#ffffff", 1.6),
        "platform": Box(
            3.2, 3.9, "platform", "pilotlight up\n(ingress, activator, KPA);\nin a cluster Knative", PLATFORM, 2.5
        ),
        "transformer": Box(7.4, 3.9, "transformer pod", "templates, tokens ⇄ text\n+ template workers", POD),
        "predictor": Box(7.4, 2.0, "predictor pod", "V2 over tokens,\nadmission, holds a lease", POD),
        "coordinator": Box(3.2, 0.3, "coordinator", "leases, ledger, placement,\nkeep-alive", POOL, 2.5),
        "agent": Box(7.4, 0.3, "agent", "slots of one node,\nmodel store", POOL),
        "engine": Box(11.7, 2.0, "engine host", "vLLM, one slot,\nseveral leases", ENGINE, 2.2),
        "zygote": Box(11.7, 0.3, "zygote", "vLLM imported,\nno thread; forks hosts", ENGINE, 2.2),
    }
    for box in boxes.values():
        box.draw(axes)
    arrow(axes, (1.9, 4.4), (3.1, 4.4), "one port:\nHTTP/1.1, h2c")
    arrow(axes, (5.8, 4.6), (7.3, 4.6), "HTTP, gRPC")
    arrow(axes, (7.3, 4.1), (5.8, 4.1), "token ids", -0.28)
    arrow(axes, (5.2, 3.8), (7.3, 2.7), "generate_stream\n(token ids)", -0.42)
    arrow(axes, (7.3, 2.2), (4.9, 1.4), "POST /v1/leases,\nheartbeats", 0.1)
    arrow(axes, (9.8, 2.5), (11.6, 2.5), "frames (msgpack):\nUnix socket or TCP", 0.1)
    arrow(axes, (5.8, 0.8), (7.3, 0.8), "in process, or one\nWebSocket per agent", 0.06)
    arrow(axes, (9.8, 1.0), (11.7, 1.9), "control\nsocketpair", 0.12)
    arrow(axes, (9.8, 0.6), (11.6, 0.6), "socketpair", 0.04)
    arrow(axes, (12.8, 1.4), (12.8, 1.9), "fork", -0.1)
    axes.text(0.2, 5.35, "Processes and sockets", fontsize=12, weight="bold")
    plt.savefig(OUT / "processes.png", dpi=110, bbox_inches="tight")
    plt.close()


def request() -> None:
    axes = sheet(13.4, 4.9)
    rows = ["platform", "transformer", "predictor", "pool", "engine host"]
    for number, name in enumerate(rows):
        y = 3.7 - number * 0.75
        axes.text(0.1, y + 0.22, name, fontsize=9.5, weight="bold", va="center")
        axes.plot([1.5, 13.2], [y - 0.08, y - 0.08], color="#d5d9e0", linewidth=0.8)
    spans = [
        (0, 1.6, 0.9, "route, hold", PLATFORM), (0, 2.5, 2.6, "scale 0→1: both pods at once", PLATFORM),
        (1, 2.9, 2.2, "start: tokenizer, template", POD), (1, 5.1, 1.2, "render, tokenize", POD),
        (2, 2.9, 0.5, "ask", POD), (2, 3.4, 2.3, "start: web stack", POD), (2, 6.3, 1.0, "admit", POD),
        (3, 3.4, 0.8, "place", POOL), (3, 4.2, 0.7, "order", POOL),
        (4, 4.2, 1.9, "swap: drain, weights,\nreset, defaults, check", ENGINE), (4, 7.3, 1.9, "prefill", ENGINE),
        (4, 9.2, 3.8, "decode: a frame per step carries all requests' tokens", ENGINE),
        (2, 9.4, 3.6, "each request's share of the frames", POD),
        (1, 9.6, 3.4, "detokenize, stop strings, one SSE event", POD), (0, 9.8, 3.2, "bytes pass through", PLATFORM),
    ]  # fmt: skip
    for row, begin, width, text, colour in spans:
        y = 3.7 - row * 0.75
        axes.add_patch(Rectangle((begin, y), width, 0.46, facecolor=colour, edgecolor=LINE, linewidth=0.8))
        axes.text(begin + width / 2, y + 0.23, text, ha="center", va="center", fontsize=7.2, color=INK, linespacing=1.0)
    axes.annotate("", (13.2, 0.35), (1.5, 0.35), arrowprops={"arrowstyle": "-|>", "color": LINE})
    axes.text(7.3, 0.12, "time (not to scale)", ha="center", fontsize=8, color=INK)
    axes.text(0.1, 4.6, "A request to an endpoint at zero", fontsize=12, weight="bold")
    plt.savefig(OUT / "request.png", dpi=110, bbox_inches="tight")
    plt.close()


if __name__ == "__main__":
    processes()
    request()
