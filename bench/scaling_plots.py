"""The plots of docs/scaling.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

#: Published: a million frames in ten and later in under five minutes, with 24 nodes.
PUBLISHED = {"published, 10 min": (24, 1_000_000 / 600), "published, 5 min": (24, 1_000_000 / 300)}


def draw(rows: Sequence[dict[str, Any]], tiers: Sequence[dict[str, Any]], folder: Path) -> None:
    """`scaling.png` (frames/s over nodes, one line a scenario) and `tiers.png` (frames/s over what is cached)."""
    folder.mkdir(parents=True, exist_ok=True)
    _scaling(rows, folder / "scaling.png")
    _tiers(tiers, folder / "tiers.png")


def _scaling(rows: Sequence[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 6.5), layout="constrained")
    styles = ["-", "--", "-.", ":"]
    for number, name in enumerate(dict.fromkeys(row["scenario"] for row in rows)):
        mine = [row for row in rows if row["scenario"] == name]
        axes.loglog(
            [row["nodes"] for row in mine],
            [row["frames/s"] for row in mine],
            styles[number % 4],
            marker="o",
            markersize=3,
            label=name,
        )
    for name, (nodes, speed) in PUBLISHED.items():
        axes.plot(nodes, speed, "k*", markersize=10)
        axes.annotate(name, (nodes, speed), textcoords="offset points", xytext=(8, -10), fontsize=8)
    axes.set_xlabel("nodes (4 cores each)")
    axes.set_ylabel("frames/s")
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _tiers(tiers: Sequence[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name in dict.fromkeys(row["installation"] for row in tiers):
        mine = [row for row in tiers if row["installation"] == name]
        axes.plot([100 * row["cached"] for row in mine], [row["frames/s"] for row in mine], "o-", label=name)
        for row, before in zip(mine, [None, *mine], strict=False):
            if before is not None and before["bottleneck"] == row["bottleneck"]:
                continue
            place = (100 * row["cached"], row["frames/s"])
            axes.annotate(row["bottleneck"], place, textcoords="offset points", xytext=(-12, 7), fontsize=7)
    axes.legend(fontsize=8)
    axes.set_xlabel("bytes that the head's memory and SSD hold, %")
    axes.set_ylabel(f"frames/s of {tiers[0]['nodes']} nodes")
    axes.set_ylim(0, 1.25 * max(row["frames/s"] for row in tiers))
    axes.grid(alpha=0.2)
    figure.savefig(path, dpi=100)
    plt.close(figure)
