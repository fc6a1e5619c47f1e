"""Lines and bars drawn with matplotlib: one SVG a panel for the page, one whole SVG for the file.

What is drawn depends on the item alone, byte for byte. The panels of the page have no ground and take their colours
from the page's variables, so that they follow its theme; the file is drawn in light colours on white.
"""

import math
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from steelman.page import Bars, Lines, Panel, Real, Series
from steelman.report import cells, lines
from steelman.report.palette import LIGHT, Style, styles
from steelman.report.svg import POINT, look, svg


def legend(item: Lines | Bars) -> list[tuple[str, str]]:
    """(label, SVG of a short line or patch) for every series of a figure."""
    entries = []
    for index, ((_, label), style) in enumerate(_styles(item).items()):
        salt = f"{item.name}-key{index}"
        with look(salt):
            figure = Figure(figsize=(41 * POINT, 14 * POINT))
            figure.add_artist(_handle(item, style, x=(0.06, 0.5, 0.94), y=(0.5, 0.5, 0.5)))
            entries.append((label, svg(figure, salt, None)))
    return entries


def panels(item: Lines | Bars, *, width: int = 400) -> list[tuple[str, str]]:
    """(title, SVG without ground, in the page's colours) for every panel of a figure; `width` in points."""
    style_of = _styles(item)
    drawn = []
    for index, panel in enumerate(_panels(item)):
        salt = f"{item.name}-{width}-{index}"
        words = f"{item.caption} {panel.title}".strip()
        with look(salt):
            figure = Figure(figsize=(width * POINT, _height(item) * POINT))
            axes = figure.add_axes(_place(item, width))
            _draw(axes, item, panel, style_of)
            axes.set_title(item.y_label, loc="left", fontsize=12, color=LIGHT["muted"])
            drawn.append((panel.title, svg(figure, salt, words)))
    return drawn


def whole(item: Lines | Bars) -> str:
    """The figure with all its panels and its legend as one SVG file on white."""
    with look(item.name):
        return svg(composed(item), item.name, item.caption, inline=False)


def composed(item: Lines | Bars) -> Figure:
    """The figure with all its panels and its legend, to be drawn and saved in one look."""
    style_of, parts = _styles(item), _panels(item)
    columns = 1 if len(parts) == 1 else 2
    rows = math.ceil(len(parts) / columns)
    labels = [textwrap.fill(label, 48) for _, label in style_of]
    longest = max((len(line) for label in labels for line in label.splitlines()), default=0)
    abreast = max(1, min(4, 430 * columns // (7 * longest + 80)))
    depth = 1 + sum(1 + label.count("\n") for label in labels) / abreast
    size = (430 * columns * POINT, (_height(item) * rows + 18 * depth + 12) * POINT)
    figure = Figure(figsize=size, layout="constrained", facecolor=LIGHT["card"])
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip(grid, parts, strict=False):
        _draw(axes, item, panel, style_of)
        axes.set_title(textwrap.fill(panel.title, 44), loc="left", fontsize=13, fontweight="bold")
        axes.set_xlabel(axes.get_xlabel() or item.y_label)
        if isinstance(item, Lines):
            axes.set_ylabel(item.y_label)
    for axes in list(grid)[len(parts) :]:
        axes.set_visible(False)
    handles = [_handle(item, style, label=label) for label, style in zip(labels, style_of.values(), strict=True)]
    figure.legend(handles=handles, loc="outside upper left", ncols=abreast, frameon=False, handlelength=3)
    return figure


def grid_axis(item: Lines | Bars) -> tuple[str | Real, ...]:
    """Every x of a figure once: numbers in ascending order, names as they come."""
    return lines.every_x(series for panel in _panels(item) for series in panel.series)


def _panels(item: Lines | Bars) -> tuple[Panel, ...]:
    return item.panels if isinstance(item, Lines) else (Panel("", item.series),)


def _styles(item: Lines | Bars) -> dict[tuple[str, str], Style]:
    return styles(series for panel in _panels(item) for series in panel.series)


def _height(item: Lines | Bars) -> float:
    """Points of height of one panel."""
    if isinstance(item, Lines):
        return 265.0
    return 52.0 + len(grid_axis(item)) * (17 * len(item.series) + 26)


def _place(item: Lines | Bars, width: int) -> tuple[float, float, float, float]:
    """Left, bottom, width, height of the axes as shares of the panel: equal in all panels, so that they align."""
    height = _height(item)
    left, bottom = 14, 24
    if isinstance(item, Lines):
        left, bottom = 48 if item.percent and item.drawn != "steps" and not item.log_y else 68, 42
        bottom += 14 * max((lines.wrapped(x).count("\n") for x in grid_axis(item)), default=0)
    return left / width, bottom / height, 1 - (left + 8) / width, 1 - (bottom + 22) / height


def _draw(axes: Axes, item: Lines | Bars, panel: Panel, style_of: dict[tuple[str, str], Style]) -> None:
    if isinstance(item, Lines):
        lines.draw(axes, item, panel, style_of)
    else:
        _draw_bars(axes, item, style_of)


def _draw_bars(axes: Axes, item: Bars, style_of: dict[tuple[str, str], Style]) -> None:
    """Horizontal bars, so that names have room on a phone; a name stands above its group."""
    groups = grid_axis(item)
    unit = 100 if item.percent else 1
    top = unit if item.percent else max(lines.range_of(item.series)[1], 1e-9)
    row, pitch = 17.0, 17.0 * len(item.series) + 26
    for group_index, group in enumerate(groups):
        head = group_index * pitch
        axes.text(0, head + 9, str(group), va="center", fontweight="bold")
        for index, series in enumerate(item.series):
            _bar(axes, item, series, group, head + 26 + row * index, style_of[series.role, series.label], top)
    axes.set_ylim(len(groups) * pitch, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.set_xlim(0, 1.16 * top)
    if item.percent:
        axes.xaxis.set_major_locator(MultipleLocator(25))
        axes.xaxis.set_major_formatter(lines.PERCENT)


def _bar(axes: Axes, item: Bars, series: Series, group: str | Real, y: float, style: Style, top: Real) -> None:
    unit = 100 if item.percent else 1
    at = series.x.index(group) if group in series.x else None
    value = None if at is None else series.y[at]
    if at is None or value is None:
        axes.text(0.01 * top, y, "no value", va="center", color=LIGHT["muted"])
        return
    axes.barh(y, unit * value, height=14, **_patch(style))
    end = unit * value
    if series.low and series.high and (low := series.low[at]) is not None and (high := series.high[at]) is not None:
        axes.plot([unit * low, unit * high], [y, y], color=LIGHT["ink"], linewidth=1.4, marker="|", markersize=7)
        end = unit * high
    text = f"{unit * value:.1f}" if item.percent else cells.number(value)
    axes.text(end + 0.015 * top, y, text, va="center")


def _patch(style: Style) -> dict[str, Any]:
    """The look of a bar; a hatch is drawn in the colour of the edge."""
    return {
        "facecolor": LIGHT["card"] if style.hollow else style.colour,
        "edgecolor": style.colour if style.hollow else LIGHT["card"],
        "hatch": style.hatch,
        "linewidth": 1.2 if style.hollow else 0,
    }


def _handle(
    item: Lines | Bars,
    style: Style,
    *,
    label: str = "",
    x: tuple[float, ...] = (),
    y: tuple[float, ...] = (),
) -> Line2D | Rectangle:
    """A sample of a series' look, for legends."""
    if isinstance(item, Lines):
        return lines.handle(item, style, label=label, x=x, y=y)
    return Rectangle((0.06, 0.1), 0.88, 0.8, label=label, **_patch(style))
