"""Grids of images: small PNGs for the page, one PNG file for elsewhere; pixels are never smoothed."""

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steelman.errors import RunError
from steelman.page import Grid
from steelman.report.palette import LIGHT
from steelman.report.pictures import Pixels, load, picture, reach, thinned

_GAP = 0.12  # of an image's width, which is one inch
_LINE = 0.15  # height of a line of words


@dataclass(frozen=True)
class Tile:
    """One image of a grid, uint8 RGB, with the words below it and those for readers who cannot see it."""

    pixels: Pixels
    words: str
    instead: str


@dataclass(frozen=True)
class Tiles:
    """The images of a grid row by row, and what a reader must know."""

    rows: tuple[tuple[Tile, ...], ...]
    notes: tuple[str, ...]


def read(run_dir: Path, item: Grid) -> Tiles:
    """The pictures of a grid.

    Raises:
        RunError: the images are missing, unreadable, outside the run, or as many as the words or heads are not.
    """
    (x,) = load(run_dir, item.file, ("x",), f"the grid {item.name}")
    if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape[2:]:
        raise RunError(
            f"the grid {item.name} has images of shape {x.shape}. Expected x of shape (n, 1 or 3, height, width); "
            "make the page again."
        )
    if item.columns < 1 or len(item.words) not in (0, len(x)) or len(item.heads) not in (0, item.columns):
        raise RunError(
            f"the grid {item.name} has {len(item.words)} words for {len(x)} images "
            f"and {len(item.heads)} heads for {item.columns} columns. "
            "Expected at least one column, and one each or none at all; make the page again."
        )
    tiles = [
        Tile(picture(one), item.words[k] if item.words else "", _instead(item, k, len(x))) for k, one in enumerate(x)
    ]
    outside = reach(x)
    notes = (f"These pixels run from {outside} and are shown clipped to 0 to 1." if outside else "", thinned(x))
    rows = tuple(tuple(tiles[k : k + item.columns]) for k in range(0, len(tiles), item.columns))
    return Tiles(rows, tuple(filter(None, notes)))


def whole(item: Grid, tiles: Tiles) -> bytes:
    """The grid as one PNG on white."""
    columns = max(1, min(item.columns, max((len(row) for row in tiles.rows), default=1)))
    heads = [textwrap.fill(head, 15) for head in item.heads]
    top = _LINE * max((head.count("\n") + 1 for head in heads), default=0) + _GAP / 2
    heights = [_height(row) for row in tiles.rows]
    width, height = (1 + _GAP) * columns, top + sum(heights) + _GAP / 2
    with matplotlib.style.context(["default", {"font.size": 9, "text.color": LIGHT["ink"], "text.parse_math": False}]):
        figure = Figure(figsize=(width, height), facecolor=LIGHT["card"])
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for k, head in enumerate(heads):
            axes.text(_centre(k), top, head, ha="center", va="bottom", fontweight="bold")
        y = top + _GAP / 4
        for row, tall in zip(tiles.rows, heights, strict=True):
            _draw(axes, row, y)
            y += tall
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        raw = io.BytesIO()
        figure.savefig(raw, format="png", dpi=150, metadata={"Software": None})
    return raw.getvalue()


def _draw(axes: Axes, row: tuple[Tile, ...], y: float) -> None:
    for k, tile in enumerate(row):
        tall, wide = tile.pixels.shape[:2]
        half, depth = 0.5 * wide / max(tall, wide), tall / max(tall, wide)
        centre = _centre(k)
        axes.imshow(tile.pixels, extent=(centre - half, centre + half, y + depth, y), interpolation="nearest")
        axes.text(centre, y + depth + 0.04, _lines(tile), ha="center", va="top", color=LIGHT["muted"])


def _centre(column: int) -> float:
    return (1 + _GAP) * column + _GAP / 2 + 0.5


def _height(row: tuple[Tile, ...]) -> float:
    lines = max(_lines(tile).count("\n") + 1 if tile.words else 0 for tile in row)
    tallest = max(tile.pixels.shape[0] / max(tile.pixels.shape[:2]) for tile in row)
    return tallest + _LINE * lines + _GAP


def _lines(tile: Tile) -> str:
    return textwrap.fill(tile.words, 17)


def _instead(item: Grid, index: int, num: int) -> str:
    """What stands for an image: its place, since its words stand below it."""
    row, column = divmod(index, item.columns)
    return f"{item.heads[column]}, row {row + 1}" if item.heads else f"Image {index + 1} of {num}"
