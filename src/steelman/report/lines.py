"""Series in one set of axes: joined, apart with bars of error, or as outlines of histograms; linear or logarithmic."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from steelman.errors import RunError
from steelman.page import Lines, Panel, Real, Series
from steelman.report import cells
from steelman.report.palette import LIGHT, Style
from steelman.report.svg import POINT

Looks: TypeAlias = Mapping[tuple[str, str], Style]

PERCENT = FuncFormatter(lambda value, _position: f"{value:.0f} %")
_LIGHT = 0.17  # share of colour in bands and below outlines
_DODGE = 8.0  # points between series that share an x
_MANY = 60  # points of a panel from which on they are drawn small and see-through


def draw(axes: Axes, item: Lines, panel: Panel, look: Looks) -> None:
    """One panel of a figure, drawn into its axes.

    Args:
        axes: where to.
        item: the figure, whose panels share the range of y.
        panel: the panel.
        look: a style for each (role, label).

    Raises:
        RunError: names where numbers are due, or a histogram whose edges do not ascend or whose last y is not None.
    """
    positions = every_x(one for each in item.panels for one in each.series)
    names = tuple(str(x) for x in positions) if any(isinstance(x, str) for x in positions) else ()
    _check(item, panel, names=bool(names))
    if item.log_x:
        axes.set_xscale("log", nonpositive="mask")
    _limit_y(axes, item)
    if item.drawn == "steps":
        _outlines(axes, item, panel, look)
    elif item.drawn == "points":
        _apart(axes, item, panel, look, names)
    else:
        _joined(axes, item, panel, look, names)
    if names:
        axes.set_xticks(range(len(names)), [wrapped(name) for name in names])
    elif item.log_x:
        _log_ticks(axes.xaxis, "")
    elif item.drawn != "steps" and all(float(x).is_integer() for x in positions):
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.grid(visible=True, axis="y")
    axes.set_xlabel(item.x_label)


def handle(item: Lines, style: Style, *, label: str, x: tuple[float, ...], y: tuple[float, ...]) -> Line2D | Rectangle:
    """A sample of a series' look, for legends."""
    if item.drawn == "steps":
        ground = to_rgba(style.colour, _LIGHT)
        return Rectangle(
            (0.06, 0.1),
            0.88,
            0.8,
            label=label,
            linestyle=style.dash,
            linewidth=1.8,
            facecolor=ground,
            edgecolor=style.colour,
        )
    return Line2D(x, y, label=label, markevery=[1], **_line(style, joined=item.drawn == "lines"))


def every_x(series: Iterable[Series]) -> tuple[str | Real, ...]:
    """Every x of some series once: numbers in ascending order, names as they come."""
    seen = dict.fromkeys(x for one in series for x in one.x)
    return tuple(seen) if any(isinstance(x, str) for x in seen) else tuple(sorted(seen))


def wrapped(x: str | Real) -> str:
    """A name in lines of at most twelve letters, to stand below an axis."""
    return textwrap.fill(str(x), 12)


def range_of(series: Iterable[Series]) -> tuple[Real, Real]:
    """The least and the greatest finite value, ends of intervals included; (0, 1) without any."""
    finite = _finite(series)
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _check(item: Lines, panel: Panel, *, names: bool) -> None:
    if names and (item.log_x or item.drawn == "steps"):
        what = "a histogram" if item.drawn == "steps" else "a logarithmic axis"
        raise RunError(f"the figure {item.name} has names for x on {what}. Expected numbers; make the page again.")
    for series in panel.series if item.drawn == "steps" else ():
        if len(series.x) < 2 or series.y[-1] is not None or any(a >= b for a, b in pairwise(_floats(series.x, 1))):
            raise RunError(
                f"the series {series.label!r} of the figure {item.name} is no histogram. "
                "Expected ascending edges as x and None as the last y; make the page again."
            )


def _joined(axes: Axes, item: Lines, panel: Panel, look: Looks, names: tuple[str, ...]) -> None:
    unit = 100 if item.percent else 1
    for index, series in enumerate(panel.series):
        style = look[series.role, series.label]
        x = _places(series, names)
        if series.low and series.high:
            low, high = _visible(axes, item, series.low), _floats(series.high, unit)
            axes.fill_between(x, low, high, color=style.colour, alpha=_LIGHT, linewidth=0)
        step = max(1, math.ceil(len(x) / 8))
        every = 1 if None in series.y else (index * step // len(panel.series), step)  # a lone point needs its marker
        axes.plot(x, _floats(series.y, unit), markevery=every, **_line(style))


def _apart(axes: Axes, item: Lines, panel: Panel, look: Looks, names: tuple[str, ...]) -> None:
    unit = 100 if item.percent else 1
    many = sum(len(one.x) for one in panel.series) > _MANY
    small: dict[str, Any] = {"markersize": 4.5, "alpha": 0.6} if many else {}
    for series, shifts in zip(panel.series, _shifts(panel), strict=True):
        style = look[series.role, series.label]
        x, y = _places(series, names), _floats(series.y, unit)
        ends = (_visible(axes, item, series.low), _floats(series.high, unit)) if series.low and series.high else None
        for shift in sorted(set(shifts)):
            rows = [k for k, one in enumerate(shifts) if one == shift]
            assert axes.figure is not None
            move = axes.transData + ScaledTranslation(shift * POINT, 0, axes.figure.dpi_scale_trans)
            here = [x[k] for k in rows]
            if ends:
                low, high = ([end[k] for k in rows] for end in ends)
                axes.vlines(here, low, high, color=style.colour, linewidth=1.4, transform=move)
                for end in (low, high):
                    axes.plot(here, end, "_", color=style.colour, markersize=6, transform=move)
            axes.plot(here, [y[k] for k in rows], transform=move, **_line(style, joined=False), **small)
    everywhere = [x for each in item.panels for one in each.series for x in _places(one, names)]
    axes.set_xlim(*((-0.5, len(names) - 0.5) if names else _stretched(everywhere, log=item.log_x)))


def _shifts(panel: Panel) -> list[list[float]]:
    """How many points to the right each point of each series stands: those which share an x stand side by side."""
    there: dict[str | Real, list[int]] = {}
    for index, series in enumerate(panel.series):
        for x in dict.fromkeys(series.x):
            there.setdefault(x, []).append(index)
    return [
        [_DODGE * (there[x].index(index) - (len(there[x]) - 1) / 2) for x in series.x]
        for index, series in enumerate(panel.series)
    ]


def _outlines(axes: Axes, item: Lines, panel: Panel, look: Looks) -> None:
    unit = 100 if item.percent else 1
    ground = axes.get_ylim()[0] if item.log_y else 0.0
    for series in panel.series:
        style = look[series.role, series.label]
        edges, values = _floats(series.x, 1), _floats(series.y[:-1], unit)
        axes.stairs(values, edges, baseline=ground, fill=True, color=to_rgba(style.colour, _LIGHT), linewidth=0)
        axes.stairs(values, edges, baseline=ground, color=style.colour, linestyle=style.dash, linewidth=1.8)
        if series.low and series.high:
            low, high = _visible(axes, item, series.low[:-1]), _floats(series.high[:-1], unit)
            axes.vlines([(a + b) / 2 for a, b in pairwise(edges)], low, high, color=style.colour, linewidth=1.2)
    axes.margins(x=0.02)


def _limit_y(axes: Axes, item: Lines) -> None:
    """The range and the ticks of y, equal in all panels."""
    unit = 100 if item.percent else 1
    suffix = "\u00a0%" if item.percent else ""
    series = [one for panel in item.panels for one in panel.series]
    if item.log_y:
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(*_stretched([unit * value for value in _finite(series)], log=True))
        _log_ticks(axes.yaxis, suffix)
    elif item.drawn == "steps":
        low, high = (unit * end for end in range_of(series))
        axes.set_ylim(1.05 * min(low, 0), 1.05 * high if high > 0 else 1.0)
        counts = not item.percent and all(float(value).is_integer() for value in _finite(series))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=counts))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: cells.tick(value) + suffix))
    elif item.percent:
        axes.set_ylim(-3, 103)
        axes.yaxis.set_major_locator(MultipleLocator(25))
        axes.yaxis.set_major_formatter(PERCENT)
    else:
        axes.set_ylim(*_stretched(_finite(series), log=False))


def _log_ticks(axis: Axis, suffix: str) -> None:
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 300 else (1.0,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _position: cells.tick(value) + suffix))


def _stretched(values: Sequence[Real], *, log: bool) -> tuple[Real, Real]:
    """The range of some values with a margin; a logarithmic axis has no room for zero and below."""
    if log:
        exponents = [math.log10(value) for value in values if value > 0] or [0.0, 1.0]
        low, high = min(exponents), max(exponents)
        margin = 0.05 * (high - low) or 0.5
        return 10 ** (low - margin), 10 ** (high + margin)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.05 * (high - low or 1.0)
    return low - margin, high + margin


def _visible(axes: Axes, item: Lines, low: tuple[Real | None, ...]) -> list[float]:
    """The lower ends of intervals; on a logarithmic axis those at zero reach down to its bottom."""
    ends = _floats(low, 100 if item.percent else 1)
    return [max(end, axes.get_ylim()[0]) for end in ends] if item.log_y else ends  # max keeps a NaN in front


def _places(series: Series, names: tuple[str, ...]) -> list[float]:
    return [float(names.index(str(x))) if names else float(x) for x in series.x]


def _finite(series: Iterable[Series]) -> list[Real]:
    values = [v for one in series for part in (one.y, one.low, one.high) for v in part if v is not None]
    return [value for value in values if math.isfinite(value)]


def _floats(values: tuple[Real | str | None, ...], unit: int) -> list[float]:
    return [math.nan if value is None else unit * float(value) for value in values]


def _line(style: Style, *, joined: bool = True) -> dict[str, Any]:
    return {
        "color": style.colour,
        "linestyle": style.dash if joined else "none",
        "marker": style.marker,
        "markerfacecolor": LIGHT["card"] if style.hollow else style.colour,
        "markeredgecolor": style.colour if style.hollow else LIGHT["card"],
        "markeredgewidth": 0.8,
    }
