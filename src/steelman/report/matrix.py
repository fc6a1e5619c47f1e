"""Matrices as heat maps: coloured cells of the page, one SVG for the file.

The colour follows the value from pale to dark on a light ground and the other way about on a dark one; its luminance
falls or rises all the way, so that it is read without telling hues apart. The value stands in each cell.
"""

import math
import re
import textwrap
from dataclasses import dataclass

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from steelman.errors import RunError
from steelman.page import Cell, Matrix, Real
from steelman.report import cells
from steelman.report.palette import HEAT_LIGHT, LIGHT
from steelman.report.svg import POINT, look, svg

STOPS = ("heat-low", "heat-mid", "heat-high")  # at 0, 1/2 and 1; the ink changes at 1/2
_MAP = LinearSegmentedColormap.from_list("heat", [HEAT_LIGHT[stop] for stop in STOPS])
_BREAK = re.compile(r"([(=])(?!\))")
_CELL = (62, 30)  # points: width, height


@dataclass(frozen=True)
class Heat:
    """One cell: its value in few letters, and where it stands between the least and the greatest colour."""

    text: str
    share: float | None = None  # in [0, 1]; None where there is nothing to colour

    @property
    def css(self) -> str:
        """The style of the cell in the variables of the page; empty where there is nothing to colour."""
        if self.share is None:
            return ""
        first, last = (STOPS[0], STOPS[1]) if self.share < 0.5 else (STOPS[1], STOPS[2])
        part = 200 * self.share % 100 if self.share < 1 else 100
        ground = f"color-mix(in srgb, var(--{last}) {part:.4g}%, var(--{first}))"
        return f"background: {ground}; color: var(--{self.ink})"

    @property
    def ink(self) -> str:
        """The colour of the letters as a token of the palette: the one that stands out from the ground."""
        return "ink" if self.share is None else "heat-ink-low" if self.share < 0.5 else "heat-ink-high"


@dataclass(frozen=True)
class Map:
    """All cells of a matrix row by row, and the values of the least and the greatest colour in words."""

    rows: tuple[tuple[Heat, ...], ...]
    least: str
    most: str
    gaps: bool  # some cells hold no value


def read(item: Matrix) -> Map:
    """The coloured cells of a matrix: from 0 to 100 % for shares, from the least to the greatest value otherwise.

    Raises:
        RunError: as many cells as rows times columns are not, or a cell that is no number, share or mean.
    """
    if len(item.cells) != len(item.rows) or any(len(row) != len(item.columns) for row in item.cells):
        counts = ", ".join(sorted({str(len(row)) for row in item.cells})) or "no"
        raise RunError(
            f"the matrix {item.name} has {len(item.cells)} rows of {counts} cells "
            f"for {len(item.rows)} names of rows and {len(item.columns)} of columns. "
            "Expected one cell for each row and column; make the page again."
        )
    values = [[_value(cell) for cell in row] for row in item.cells]
    finite = [value for row in values for value in row if value is not None and math.isfinite(value)]
    low, high = (0.0, 1.0) if item.percent else (min(finite, default=0.0), max(finite, default=0.0))
    rows = tuple(
        tuple(
            Heat(_short(cell, value, item.percent), _share(value, low, high)) for cell, value in zip(*row, strict=True)
        )
        for row in zip(item.cells, values, strict=True)
    )
    least, most = (cells.percent(end, 0) if item.percent else cells.number(end) for end in (low, high))
    return Map(rows, least, most, any(one.share is None for row in rows for one in row))


def shown(item: Matrix, cell: Cell) -> cells.Shown:
    """A cell with its n and interval, for the table behind the figure."""
    if isinstance(cell, dict) and "value" in cell and not item.percent:
        middle, n = cells.between(cell["value"], cell.get("low"), cell.get("high"), share=False), cell.get("n")
        return cells.Shown(middle.main, ", ".join(filter(None, (middle.small, "" if n is None else f"n = {n:,}"))))
    if isinstance(cell, dict):
        return cells.show({"percent": item.percent, **cell})
    return cells.show({"value": cell} if item.percent and _value(cell) is not None else cell)


def whole(item: Matrix) -> str:
    """The matrix as one SVG file on white."""
    table = read(item)
    heads = [_wrapped(name, 13) for name in item.columns]
    names = [_wrapped(name, 34) for name in item.rows]
    left = 7.0 * max((len(line) for name in (*names, item.row_label) for line in name.splitlines()), default=0) + 14
    top = 15.0 * (max((name.count("\n") + 1 for name in heads), default=0) + (1 if item.column_label else 0)) + 14
    heights = [max(_CELL[1], 15 * (name.count("\n") + 1) + 8) for name in names]
    width = max(_CELL[0], 7.0 * max((len(line) for name in heads for line in name.splitlines()), default=0) + 8)
    across = max(width * len(heads), 7.0 * len(item.column_label))
    size = (left + across + 8, top + sum(heights) + 8)
    with look(item.name):
        figure = Figure(figsize=(size[0] * POINT, size[1] * POINT), facecolor=LIGHT["card"])
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
        axes.text(left + 2, 15, item.column_label, va="center", color=LIGHT["muted"])
        axes.text(8, top - 12, item.row_label, va="center", color=LIGHT["muted"])
        for k, head in enumerate(heads):
            axes.text(left + (k + 0.5) * width, top - 4, head, ha="center", va="bottom")
        y = top
        for name, row, height in zip(names, table.rows, heights, strict=True):
            axes.text(8, y + height / 2, name, va="center")
            for k, one in enumerate(row):
                ground = LIGHT["card"] if one.share is None else _MAP(one.share)
                corner = (left + k * width + 1, y + 1)
                axes.add_patch(Rectangle(corner, width - 2, height - 2, facecolor=ground, linewidth=0))
                ink = HEAT_LIGHT.get(one.ink, LIGHT["muted"])
                axes.text(left + (k + 0.5) * width, y + height / 2, one.text, ha="center", va="center", color=ink)
            y += height
        return svg(figure, item.name, item.caption, inline=False)


def _value(cell: Cell) -> Real | None:
    """The number of a cell, by which it is coloured."""
    number = cell.get("value", cell.get("mean")) if isinstance(cell, dict) else cell
    return None if isinstance(number, str | bool) or number is None or math.isnan(number) else number


def _share(value: Real | None, low: Real, high: Real) -> float | None:
    """Where a value stands between the ends of the colours; beyond them at the end, halfway where they are one."""
    if value is None:
        return None
    return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5


def _short(cell: Cell, value: Real | None, share: bool) -> str:
    if value is None:
        return cells.show(cell).main  # words, a dash, or the complaint about a cell that says nothing
    return cells.percent(value) if share else cells.number(value)


def _wrapped(name: str, width: int) -> str:
    """A name in short lines; a spec may part after its brackets and equals signs."""
    parts = textwrap.wrap(_BREAK.sub("\\1\u200b ", name), width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(part.replace("\u200b ", "").replace("\u200b", "") for part in parts)
