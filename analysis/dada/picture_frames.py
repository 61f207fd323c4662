"""Draws averages and composites: counts on a logarithmic scale, invalid pixels and gaps in grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from dada.analysis import Map
from dada.frame_analysis import FramesResult
from dada.picture import STYLE, colour_bar, new_figure, save

_INVALID = "#6e6e6e"
_BORDER = "#ffffff"
_PANELS = {"average": "Average", "maximum": "Maximum", "variance": "Variance", "sum": "Sum"}
_LONGEST_INCHES = 12.0
_MOST_TICKS = 14
#: Decades below the brightest percent that are told apart.
_DECADES = 3.5


def draw_frames(path: Path, result: FramesResult) -> None:
    """Write a PNG. Raises UserError when it cannot be written."""
    with mpl.rc_context(STYLE):
        composite = result.options.kind == "composite"
        save(_composite(result) if composite else _average(result), path, dpi=220 if composite else 150)


def _average(result: FramesResult) -> Figure:
    ny, nx = result.mask.shape
    figure = new_figure((10.5, float(np.clip(9.0 * ny / nx, 4, 16)) + 0.6))
    for axis, (name, title) in zip(figure.subplots(2, 2).ravel(), _PANELS.items(), strict=True):
        item = result.images[name]
        _image(axis, item, title, _extent(item))
    figure.suptitle(_title(result), fontsize=10, color="#444444")
    return figure


def _composite(result: FramesResult) -> Figure:
    item = result.images["composite"]
    rows, columns = item.values.shape
    scale = _LONGEST_INCHES / max(rows, columns)
    figure = new_figure((max(columns * scale, 4.0) + 1.1, max(rows * scale, 3.0) + 0.9))
    axis = figure.subplots()
    ny, nx = result.images["thumbnail"].values.shape[:2]
    (y0, _, x0, _), (sy, sx) = result.options.region or (0, 0, 0, 0), result.options.skip  # type: ignore[attr-defined]
    extent = (x0 - sx / 2, x0 + (nx - 0.5) * sx, y0 + (ny - 0.5) * sy, y0 - sy / 2)
    _image(axis, item, item.long_name, extent, _borders(result))
    # points are as wide as their frames, whatever the scan's steps are
    axis.set_aspect(abs((extent[1] - extent[0]) / (extent[3] - extent[2])) * rows / columns)
    axis.set(xlabel="x (points)", ylabel="y (points)")
    axis.set_xticks(x0 + sx * np.arange(0, nx, -(-nx // _MOST_TICKS)))
    axis.set_yticks(y0 + sy * np.arange(0, ny, -(-ny // _MOST_TICKS)))
    figure.suptitle(_title(result), fontsize=10, color="#444444")
    return figure


def _borders(result: FramesResult) -> np.ndarray:
    """Where the composite has no frame, (rows, columns) bool."""
    shape, (_, _, h, w) = result.images["composite"].values.shape, result.images["thumbnail"].values.shape
    border = result.options.border  # type: ignore[attr-defined]
    y, x = np.indices(shape, sparse=True)
    return np.asarray((y % (h + border) >= h) | (x % (w + border) >= w))


def _image(
    axis: Axes, item: Map, title: str, extent: tuple[float, float, float, float], borders: np.ndarray | None = None
) -> None:
    values = item.values
    norm = _norm(values)
    colours = mpl.colormaps["inferno"].with_extremes(bad=_INVALID)
    shown = np.where(values > 0, values, norm.vmin) if isinstance(norm, LogNorm) else values
    shown = np.where(np.isfinite(values), shown, np.nan)
    image = axis.imshow(shown, cmap=colours, norm=norm, extent=extent, interpolation="antialiased")
    if borders is not None and borders.any():
        cover = np.zeros((*borders.shape, 4))
        cover[borders] = mpl.colors.to_rgba(_BORDER)
        axis.imshow(cover, extent=extent, interpolation="antialiased")
    colour_bar(axis, image, item.unit.replace("^2", "$^2$"))
    axis.set(title=title, xlabel="x (px)", ylabel="y (px)")


def _norm(values: np.ndarray) -> Normalize:
    """Logarithmic from the faintest counts there are to the brightest, a few hot pixels left out."""
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size == 0:
        return Normalize(0, 1)
    high = float(np.percentile(positive, 99.9))
    low = max(float(np.percentile(positive, 1)), high / 10**_DECADES)
    return LogNorm(low, high) if high > 2 * low else Normalize(0, max(high, float(positive.max())))


def _extent(item: Map) -> tuple[float, float, float, float]:
    edges: list[Any] = []
    for _, middles, _ in item.axes:
        half = (middles[1] - middles[0]) / 2 if len(middles) > 1 else 0.5
        edges.append((middles[0] - half, middles[-1] + half))
    (top, bottom), (left, right) = edges
    return left, right, bottom, top


def _title(result: FramesResult) -> str:
    text = f"{result.scan.path.name}   {len(result.frames)} frames"
    if result.options.region:
        y0, y1, x0, x1 = result.options.region
        text += f"   points {y0}:{y1}, {x0}:{x1}"
    if result.damaged:
        text += f"   {len(result.damaged)} damaged"
    return text
