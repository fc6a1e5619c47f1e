"""Lines and bars drawn with matplotlib: one SVG a panel for the page, one whole SVG for the file.

What is drawn depends on the item alone, byte for byte. The panels of the page have no ground and take their colours
from the page's variables, so that they follow its theme; the file is drawn in light colours on white.
"""

import io
import math
import re
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from steelman.page import Bars, Lines, Panel, Real, Series
from steelman.report import cells
from steelman.report.palette import LIGHT, Style, styles

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_POINT = 1 / 72  # matplotlib measures figures in inches, SVG in points
_RC = {
    "svg.fonttype": "none",
    "font.size": 12,
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.8,
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "hatch.linewidth": 1.1,
    "lines.linewidth": 2,
    "lines.markersize": 6.5,
}


def legend(item: Lines | Bars) -> list[tuple[str, str]]:
    """(label, SVG of a short line or patch) for every series of a figure."""
    entries = []
    for index, ((_, label), style) in enumerate(_styles(item).items()):
        salt = f"{item.name}-key{index}"
        with _look(salt):
            figure = Figure(figsize=(41 * _POINT, 14 * _POINT))
            figure.add_artist(_handle(item, style, x=(0.06, 0.5, 0.94), y=(0.5, 0.5, 0.5)))
            entries.append((label, _svg(figure, salt, None)))
    return entries


def panels(item: Lines | Bars, *, width: int = 400) -> list[tuple[str, str]]:
    """(title, SVG without ground, in the page's colours) for every panel of a figure; `width` in points."""
    look = _styles(item)
    drawn = []
    for index, panel in enumerate(_panels(item)):
        salt = f"{item.name}-{width}-{index}"
        words = f"{item.caption} {panel.title}".strip()
        with _look(salt):
            figure = Figure(figsize=(width * _POINT, _height(item) * _POINT))
            axes = figure.add_axes(_place(item, width))
            _draw(axes, item, panel, look)
            axes.set_title(item.y_label, loc="left", fontsize=12, color=LIGHT["muted"])
            drawn.append((panel.title, _svg(figure, salt, words)))
    return drawn


def whole(item: Lines | Bars) -> str:
    """The figure with all its panels and its legend as one SVG file on white."""
    look, parts = _styles(item), _panels(item)
    columns = 1 if len(parts) == 1 else 2
    rows = math.ceil(len(parts) / columns)
    with _look(item.name):
        labels = [textwrap.fill(label, 48) for _, label in look]
        longest = max((len(line) for label in labels for line in label.splitlines()), default=0)
        abreast = max(1, min(4, 430 * columns // (7 * longest + 80)))
        lines = 1 + sum(1 + label.count("\n") for label in labels) / abreast
        size = (430 * columns * _POINT, (_height(item) * rows + 18 * lines + 12) * _POINT)
        figure = Figure(figsize=size, layout="constrained", facecolor=LIGHT["card"])
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes, panel in zip(grid, parts, strict=False):
            _draw(axes, item, panel, look)
            axes.set_title(textwrap.fill(panel.title, 44), loc="left", fontsize=13, fontweight="bold")
            axes.set_xlabel(axes.get_xlabel() or item.y_label)
            if isinstance(item, Lines):
                axes.set_ylabel(item.y_label)
        for axes in list(grid)[len(parts) :]:
            axes.set_visible(False)
        handles = [_handle(item, style, label=label) for label, style in zip(labels, look.values(), strict=True)]
        figure.legend(handles=handles, loc="outside upper left", ncols=abreast, frameon=False, handlelength=3)
        return _svg(figure, item.name, item.caption, inline=False)


def grid_axis(item: Lines | Bars) -> tuple[str | Real, ...]:
    """Every x of a figure once: numbers in ascending order, names as they come."""
    seen = dict.fromkeys(x for panel in _panels(item) for series in panel.series for x in series.x)
    return tuple(seen) if any(isinstance(x, str) for x in seen) else tuple(sorted(seen))


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
    left, bottom = (14, 24) if isinstance(item, Bars) else (48 if item.percent else 68, 42)
    if isinstance(item, Lines):
        bottom += 14 * max((_wrapped(x).count("\n") for x in grid_axis(item)), default=0)
    return left / width, bottom / height, 1 - (left + 8) / width, 1 - (bottom + 22) / height


def _wrapped(x: str | Real) -> str:
    return textwrap.fill(str(x), 12)


def _draw(axes: Axes, item: Lines | Bars, panel: Panel, look: dict[tuple[str, str], Style]) -> None:
    if isinstance(item, Lines):
        _draw_lines(axes, item, panel, look)
    else:
        _draw_bars(axes, item, look)


def _draw_lines(axes: Axes, item: Lines, panel: Panel, look: dict[tuple[str, str], Style]) -> None:
    positions = grid_axis(item)
    names = any(isinstance(x, str) for x in positions)
    unit = 100 if item.percent else 1
    for index, series in enumerate(panel.series):
        style = look[series.role, series.label]
        x = [positions.index(x) if names else float(x) for x in series.x]
        if series.low and series.high:
            axes.fill_between(
                x, _floats(series.low, unit), _floats(series.high, unit), color=style.colour, alpha=0.17, linewidth=0
            )
        step = max(1, math.ceil(len(x) / 8))
        every = 1 if None in series.y else (index * step // len(panel.series), step)  # a lone point needs its marker
        axes.plot(x, _floats(series.y, unit), markevery=every, **_line(style))
    if names:
        axes.set_xticks(range(len(positions)), [_wrapped(x) for x in positions])
    elif all(float(x).is_integer() for x in positions):
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.grid(visible=True, axis="y")
    axes.set_xlabel(item.x_label)
    if item.percent:
        axes.set_ylim(-3, 103)
        axes.yaxis.set_major_locator(MultipleLocator(25))
        axes.yaxis.set_major_formatter(_percent)
    else:
        axes.set_ylim(*_range(item))


def _draw_bars(axes: Axes, item: Bars, look: dict[tuple[str, str], Style]) -> None:
    """Horizontal bars, so that names have room on a phone; a name stands above its group."""
    groups = grid_axis(item)
    unit = 100 if item.percent else 1
    top = unit if item.percent else max(_range_of(item.series)[1], 1e-9)
    row, pitch = 17.0, 17.0 * len(item.series) + 26
    for group_index, group in enumerate(groups):
        head = group_index * pitch
        axes.text(0, head + 9, str(group), va="center", fontweight="bold")
        for index, series in enumerate(item.series):
            _bar(axes, item, series, group, head + 26 + row * index, look[series.role, series.label], top)
    axes.set_ylim(len(groups) * pitch, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.set_xlim(0, 1.16 * top)
    if item.percent:
        axes.xaxis.set_major_locator(MultipleLocator(25))
        axes.xaxis.set_major_formatter(_percent)


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


def _line(style: Style) -> dict[str, Any]:
    return {
        "color": style.colour,
        "linestyle": style.dash,
        "marker": style.marker,
        "markerfacecolor": LIGHT["card"] if style.hollow else style.colour,
        "markeredgecolor": style.colour if style.hollow else LIGHT["card"],
        "markeredgewidth": 0.8,
    }


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
        return Line2D(x, y, label=label, markevery=[1], **_line(style))
    return Rectangle((0.06, 0.1), 0.88, 0.8, label=label, **_patch(style))


def _floats(values: tuple[Real | None, ...], unit: int) -> list[float]:
    return [math.nan if value is None else unit * value for value in values]


def _range(item: Lines) -> tuple[Real, Real]:
    low, high = _range_of(tuple(series for panel in item.panels for series in panel.series))
    margin = 0.05 * (high - low or 1.0)
    return low - margin, high + margin


def _range_of(series: tuple[Series, ...]) -> tuple[Real, Real]:
    """The least and the greatest finite value, ends of intervals included; (0, 1) without any."""
    values = [v for one in series for part in (one.y, one.low, one.high) for v in part if v is not None]
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


_percent = FuncFormatter(lambda value, _position: f"{value:.0f} %")


@contextmanager
def _look(salt: str) -> Generator[None]:
    """The drawing defaults, whatever a user's matplotlibrc says; the salt makes the ids of the SVG repeatable."""
    with matplotlib.style.context(["default", {**_RC, "svg.hashsalt": salt}]):
        yield


def _svg(figure: Figure, prefix: str, words: str | None, *, inline: bool = True) -> str:
    """The figure as one <svg> element; without words it is decoration."""
    raw = io.BytesIO()
    figure.savefig(raw, format="svg", transparent=inline, metadata={"Date": None})
    root = ET.fromstring(raw.getvalue())
    for element in root.findall("*"):
        if element.tag == f"{{{_SVG}}}metadata" or element.find(f"{{{_SVG}}}style") is not None:
            root.remove(element)  # a date and a maker; and rules that would hold for the whole page
    _rename(root, prefix, _inline_style if inline else _file_style)
    root.set("stroke-linejoin", "round")
    root.set("stroke-linecap", "butt")
    if inline:
        del root.attrib["width"], root.attrib["height"]
    else:
        root.set("font-family", SANS)
    if words is None:
        root.set("aria-hidden", "true")
    else:
        root.set("role", "img")
        root.set("aria-label", words)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return ET.tostring(root, encoding="unicode")


def _rename(root: ET.Element, prefix: str, restyle: Callable[[str], str]) -> None:
    """Prefix the ids that are used, drop the others, and restyle: so no two figures of a page share an id."""
    link = f"{{{_XLINK}}}href"
    for element in root.iter():
        element.text, element.tail = (element.text or "").strip() or None, None  # no indentation
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        identity = element.attrib.pop("id", None)
        if identity and element.tag.rpartition("}")[2] in ("path", "clipPath", "pattern"):
            element.set("id", f"{prefix}-{identity}")
        if target := element.attrib.pop(link, None):
            element.set("href", f"#{prefix}-{target.removeprefix('#')}")
        for name in ("style", "fill", "stroke", "clip-path"):
            if value := element.get(name):
                element.set(name, restyle(value.replace("url(#", f"url(#{prefix}-")))


_TOKENS = {colour: f"var(--{token})" for token, colour in LIGHT.items()}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FAMILY = re.compile(r"font-family: [^;]*(; )?")


def _file_style(style: str) -> str:
    """Without the font's family, which is inherited."""
    return _FAMILY.sub("", style)


def _inline_style(style: str) -> str:
    """The palette's colours as the page's variables."""
    return _COLOUR.sub(lambda match: _TOKENS.get(match[0], match[0]), _file_style(style))
