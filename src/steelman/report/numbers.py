"""The values behind a figure as tables, so that what is drawn can also be read."""

from dataclasses import dataclass
from itertools import pairwise

from steelman.page import Bars, Lines, Matrix, Panel, Real, Series
from steelman.report import cells, figures, matrix


@dataclass(frozen=True)
class Numbers:
    """One table: the first cell of a row is its head."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[cells.Shown, ...], ...]


def tables_of(item: Lines | Bars | Matrix) -> tuple[Numbers, ...]:
    """The tables of a figure: one a panel, or one a series where a series has several points at one x."""
    if isinstance(item, Matrix):
        rows = [
            (cells.show(name), *(matrix.shown(item, cell) for cell in row))
            for name, row in zip(item.rows, item.cells, strict=True)
        ]
        title = " × ".join(filter(None, (item.row_label, item.column_label)))
        return (Numbers(title, (item.row_label, *item.columns), tuple(rows)),)
    if isinstance(item, Bars):
        return (_table("", "", item.series, item),)
    return tuple(table for panel in item.panels for table in _panel(panel, item))


def _panel(panel: Panel, item: Lines) -> list[Numbers]:
    if item.drawn == "steps" and panel.series and len({series.x for series in panel.series}) == 1:
        return [_bins(panel, item)]
    if all(len(set(series.x)) == len(series.x) for series in panel.series):
        return [_table(panel.title, item.x_label, panel.series, item)]
    return [
        Numbers(
            f"{panel.title} {series.label}".strip(),
            (item.x_label, item.y_label),
            tuple((cells.show(x), _at(series, k, item.percent)) for k, x in enumerate(series.x)),
        )
        for series in panel.series
    ]


def _bins(panel: Panel, item: Lines) -> Numbers:
    """A row a bin."""
    rows = [
        (cells.Shown(f"{_number(low)} to {_number(high)}"), *(_at(series, k, item.percent) for series in panel.series))
        for k, (low, high) in enumerate(pairwise(panel.series[0].x))
    ]
    return Numbers(panel.title, (item.x_label, *(series.label for series in panel.series)), tuple(rows))


def _table(title: str, first: str, series: tuple[Series, ...], item: Lines | Bars) -> Numbers:
    """A column a series, a row an x."""
    axis = [x for x in figures.grid_axis(item) if any(x in one.x for one in series)]
    rows = [(cells.show(x), *(_point(one, x, item.percent) for one in series)) for x in axis]
    return Numbers(title, (first, *(one.label for one in series)), tuple(rows))


def _point(series: Series, x: str | Real, share: bool) -> cells.Shown:
    return _at(series, series.x.index(x), share) if x in series.x else cells.show(None)


def _at(series: Series, at: int, share: bool) -> cells.Shown:
    low, high = (ends[at] if ends else None for ends in (series.low, series.high))
    return cells.between(series.y[at], low, high, share=share)


def _number(x: str | Real) -> str:
    return cells.show(x).main
