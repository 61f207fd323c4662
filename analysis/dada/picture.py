"""Draws the maps of an analysis as one picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from dada.analysis import StxmResult
from dada.errors import UserError

_PERCENTILES = (1.0, 99.0)
_HOLE = "#d9d9d9"
_PANEL_INCHES = 3.6
STYLE = {
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "image.interpolation": "nearest",
}
Panel = Callable[[Axes], None]


def draw(path: Path, result: StxmResult) -> None:
    """Write a PNG with a panel for each map worth looking at. Raises UserError when it cannot be written."""
    with mpl.rc_context(STYLE):
        save(_figure(result), path)


def new_figure(inches: tuple[float, float]) -> Figure:
    """An empty figure that needs no screen."""
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    return figure


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG. Raises UserError when that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the picture cannot be written to {path}: {reason}; choose another --png") from error


def _figure(result: StxmResult) -> Figure:
    panels = _panels(result)
    columns = _columns(len(panels))
    rows = -(-len(panels) // columns)
    ny, nx = result.map_ptr.shape
    height = _PANEL_INCHES * float(
        np.clip(ny * result.options.grid.step[0] / (nx * result.options.grid.step[1]), 0.4, 2)
    )
    figure = new_figure((_PANEL_INCHES * 1.18 * columns, height * rows + 0.7))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(_title(result), fontsize=10, color="#444444")
    return figure


def _columns(n: int) -> int:
    """How many of `n` panels stand side by side: few gaps at the end, and rather wide than high."""
    if n <= 6:
        return {1: 1, 2: 2, 4: 2}.get(n, 3)
    return min((3, 4, 5), key=lambda columns: (-n % columns, -columns))


def _title(result: StxmResult) -> str:
    ny, nx = result.map_ptr.shape
    text = f"{result.scan.path.name}   {ny} × {nx} points"
    if result.damaged:
        text += f"   {len(result.damaged)} damaged frames"
    return text


def _panels(result: StxmResult) -> list[Panel]:
    maps = result.maps
    panels: list[Panel] = [lambda axis: _scalar(axis, result, "itot", "Darkfield", "magma")]
    if {"comh", "comv"} <= maps.keys():
        panels.append(lambda axis: _centred(axis, result, "comh", "Centre of mass, horizontal"))
        panels.append(lambda axis: _centred(axis, result, "comv", "Centre of mass, vertical"))
        panels.append(lambda axis: _deflection(axis, result))
    for name in result.options.rings:
        panels.append(lambda axis, name=name: _scalar(axis, result, name, _ring_title(result, name), "viridis"))
    panels += _more(result)
    return panels


def _more(result: StxmResult) -> list[Panel]:
    maps = result.maps
    panels: list[Panel] = []
    if "phase" in maps:
        panels.append(lambda axis: _scalar(axis, result, "phase", "Phase", "twilight_shifted"))
    oriented = [ring for ring in result.options.rings if f"orient2_{ring}" in maps]
    for ring in oriented:
        names = f"orient2_{ring}", f"degree_{ring}"
        panels.append(lambda axis, n=names, ring=ring: _orientation(axis, result, *n, f"Orientation, {ring}"))
    if not oriented and {"pca_angle", "pca_w"} <= maps.keys():  # of the whole frame: beside rings it tells nothing new
        panels.append(lambda axis: _orientation(axis, result, "pca_angle", "pca_w", "Orientation (PCA)"))
    for name, title in _FIT_PANELS.items():
        if name in maps:
            panels.append(lambda axis, name=name, title=title: _scalar(axis, result, name, title, "cividis"))
    if "iq" in maps:
        panels.append(lambda axis: _profiles(axis, result))
    return panels


_FIT_PANELS = {"power_p": "Power-law exponent", "guinier_rg": "Radius of gyration"}


def _ring_title(result: StxmResult, name: str) -> str:
    ring = result.options.rings[name]
    unit = "px" if ring.unit == "px" else "nm$^{-1}$"
    return f"{name}  ({ring.low:g} to {ring.high:g} {unit})"


def _extent(result: StxmResult) -> tuple[float, float, float, float]:
    (ny, nx), (dy, dx) = result.map_ptr.shape, result.options.grid.step
    return -dx / 2, (nx - 0.5) * dx, (ny - 0.5) * dy, -dy / 2


def _dress(axis: Axes, result: StxmResult, title: str) -> None:
    unit = result.options.grid.unit.replace("um", "µm")
    axis.set_title(title)
    axis.set_xlabel(f"x ({unit})")
    axis.set_ylabel(f"y ({unit})")
    axis.set_facecolor(_HOLE)


def limits(values: np.ndarray) -> tuple[float, float]:
    """Colour limits from the valid values, without the outermost percent on either side."""
    valid = values[np.isfinite(values)]
    if valid.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(valid, _PERCENTILES)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _scalar(axis: Axes, result: StxmResult, name: str, title: str, colours: str) -> None:
    item = result.maps[name]
    low, high = limits(item.values)
    image = axis.imshow(item.values, cmap=colours, vmin=low, vmax=high, extent=_extent(result))
    colour_bar(axis, image, item.unit)
    _dress(axis, result, title)


def _centred(axis: Axes, result: StxmResult, name: str, title: str) -> None:
    """A map about its median, in diverging colours."""
    item = result.maps[name]
    valid = item.values[np.isfinite(item.values)]
    median = float(np.median(valid)) if valid.size else 0.0
    low, high = limits(item.values - median)
    reach = max(-low, high)
    image = axis.imshow(item.values - median, cmap="RdBu_r", vmin=-reach, vmax=reach, extent=_extent(result))
    colour_bar(axis, image, f"{item.unit} from {median:.1f}")
    _dress(axis, result, title)


def colour_bar(axis: Axes, image: mpl.cm.ScalarMappable, label: str) -> None:
    """The scale beside an image."""
    bar = axis.figure.colorbar(image, cax=axis.inset_axes((1.03, 0, 0.05, 1)))
    bar.set_label(label)
    bar.outline.set_linewidth(0.6)
    if hasattr(bar.formatter, "set_powerlimits"):  # a logarithmic scale has powers anyway
        bar.formatter.set_powerlimits((-3, 5))


def _deflection(axis: Axes, result: StxmResult) -> None:
    """Direction of the beam's shift as hue, its size as brightness, with a wheel as the key."""
    dx, dy = (result.maps[name].values for name in ("comh", "comv"))
    dx, dy = dx - np.nanmedian(dx), dy - np.nanmedian(dy)
    size, angle = np.hypot(dx, dy), np.arctan2(-dy, dx)
    _hue(axis, result, angle / (2 * np.pi) % 1, size, limits(size)[1])
    _wheel(axis, turns=1)
    _dress(axis, result, "Deflection (direction as hue)")


def _orientation(axis: Axes, result: StxmResult, angle_name: str, degree_name: str, title: str) -> None:
    """Orientation of the scattering as hue, its degree as brightness."""
    angle, degree = result.maps[angle_name].values, result.maps[degree_name].values
    _hue(axis, result, angle / 180 % 1, degree, limits(degree)[1])
    _wheel(axis, turns=2)
    _dress(axis, result, title)


def _profiles(axis: Axes, result: StxmResult) -> None:
    """I(q) of the strongest point, of the weakest and of the mean over the map."""
    item = result.maps["iq"]
    name, centres, unit = item.axes[0]
    curves = item.values.reshape(-1, len(centres))
    itot = result.maps["itot"].values.ravel()
    seen = np.isfinite(itot)
    if not seen.any():
        axis.set_axis_off()
        return
    order = np.flatnonzero(seen)[np.argsort(itot[seen])]
    chosen = {"brightest point": curves[order[-1]], "mean of the map": _mean(curves[seen]), "darkest": curves[order[0]]}
    for (label, curve), colour in zip(chosen.items(), ("#fb8861", "#333333", "#51127c"), strict=True):
        shown = curve > 0
        axis.plot(centres[shown], curve[shown], label=label, color=colour, linewidth=1.1)
    axis.set(xscale="log", yscale="log", xlabel=f"{name} ({unit})", ylabel=f"I ({item.unit})")
    axis.set_title("Azimuthal average")
    axis.legend(framealpha=0.85, edgecolor="none", fontsize=8)
    axis.set_box_aspect(1)


def _mean(curves: np.ndarray) -> np.ndarray:
    """Mean of the values there are, per column; NaN where there are none."""
    count = np.isfinite(curves).sum(axis=0)
    return np.where(count > 0, np.nansum(curves, axis=0) / np.maximum(count, 1), np.nan)


def _hue(axis: Axes, result: StxmResult, hue: np.ndarray, size: np.ndarray, full: float) -> None:
    value = np.clip(size / full if full > 0 else size, 0, 1)
    valid = np.isfinite(hue) & np.isfinite(value)
    colours = np.stack([np.where(valid, hue, 0), np.full(hue.shape, 0.85), np.where(valid, value, 0)], axis=-1)
    rgba = np.concatenate([hsv_to_rgb(colours), valid[..., None].astype(float)], axis=-1)
    axis.imshow(rgba, extent=_extent(result))


def _wheel(axis: Axes, turns: int) -> None:
    """The key beside the panel: angle as hue, radius as size; `turns` 2 where opposite directions are the same."""
    key = axis.inset_axes((1.03, 0.80, 0.2, 0.2))
    v, u = np.mgrid[1:-1:81j, -1:1:81j]
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    colours = np.stack([turns * angle / (2 * np.pi) % 1, np.full(u.shape, 0.85), np.clip(radius, 0, 1)], axis=-1)
    key.imshow(np.concatenate([hsv_to_rgb(colours), (radius <= 1)[..., None].astype(float)], axis=-1))
    key.set_axis_off()
