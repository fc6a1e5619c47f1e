"""Matrices, grids, points, histograms and logarithmic axes of a report: what is drawn is what the page says."""

import base64
import io
import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import save_file

from steelman.errors import RunError
from steelman.page import Grid, Item, Lines, Matrix, Page, Panel, Section, Series
from steelman.report import cells, draw_all, figures, grids, matrix, write_report
from steelman.report import lines as axes_of
from steelman.report.numbers import tables_of
from steelman.report.palette import DARK, HEAT_DARK, HEAT_LIGHT, LIGHT, styles
from steelman.report.svg import look, svg

SHARE = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 400}
SVG = "{http://www.w3.org/2000/svg}"


def write(run_dir: Path, *items: Item) -> Path:
    (run_dir / "results").mkdir(parents=True, exist_ok=True)
    Page("Title", "Question?", "Headline", sections=(Section("Section", (), items),)).save(
        run_dir / "results" / "page.json"
    )
    return run_dir


def square(*cells_: object, percent: bool = True, rows: int = 2) -> Matrix:
    two = (tuple(cells_[:2]), tuple(cells_[2:]))
    return Matrix("m", "Who fools whom.", "source", "target", ("a", "B()")[:rows], ("c", "d(e=1)"), two, percent)  # type: ignore[arg-type]


def grid_of(run_dir: Path, x: np.ndarray, columns: int = 2, **fields: tuple[str, ...]) -> Grid:
    (run_dir / "examples").mkdir(parents=True, exist_ok=True)
    save_file({"x": x.astype(np.float32)}, run_dir / "examples" / "g.safetensors")
    return Grid("g", "What is kept.", "examples/g.safetensors", columns, **fields)


def figure(*series: Series, name: str = "f", **fields: object) -> Lines:
    return Lines(name, "A caption", "x label", "y label", (Panel("", series),), **fields)  # type: ignore[arg-type]


DOTS = (
    Series("a", "pgd", ("u", "v"), (0.3, 0.4), (0.2, None), (0.4, 0.5)),
    Series("b", "fgsm", ("u", "w"), (0.3, 0.1)),
)
BINS = Series(
    "d",
    "natural",
    (0.0, 0.5, 1.0, 2.0),
    (0.04, None, 0.08, None),
    (0.03, None, 0.07, None),
    (0.05, None, 0.1, None),
)
COUNTS = Series("e", "pgd", (1, 10, 100), (3, 4000, None))
FALL = Series("a", "pgd", (0, 1, 10, 100), (0.5, 0.1, 0.01, 0.0), (0.4, 0.0, 0.0, 0.0), (0.6, 0.2, 0.02, 0.01))
FAR = Series("a", "pgd", (1e-5, 2e7), (2.5, 3.5), (0.0, 3.0), (3.0, 4.0))
EVERY = {
    "points on names": figure(*DOTS, drawn="points"),
    "points on numbers": figure(Series("a", "other", (0.1, 0.1, 3.0), (5.0, 6.0, 7.0)), drawn="points", percent=False),
    "many points": figure(Series("a", "other", tuple(range(80)), (0.5,) * 80), drawn="points"),
    "no points": figure(drawn="points"),
    "shares in bins": figure(BINS, Series("e", "pgd", (0, 1, 2), (0.01, 0.02, None)), drawn="steps"),
    "counts in bins": figure(Series("e", "pgd", (0, 1, 2), (3, 0, None)), drawn="steps", percent=False),
    "logarithmic bins": figure(COUNTS, drawn="steps", percent=False, log_x=True, log_y=True),
    "no bins": figure(drawn="steps"),
    "logarithmic lines": figure(FALL, log_x=True, log_y=True),
    "logarithmic points": figure(FAR, drawn="points", percent=False, log_x=True, log_y=True),
    "logarithmic nothing": figure(log_x=True, log_y=True),
}


# lines in other ways


@pytest.mark.parametrize("name", EVERY)
def test_a_figure_is_the_same_every_time_and_takes_its_colours_from_the_page(name: str) -> None:
    item = EVERY[name]
    ((_, svg),) = figures.panels(item)
    assert figures.panels(item) == [("", svg)]
    if name in ("points on names", "shares in bins", "logarithmic lines"):  # the file is made by the same lines
        assert figures.whole(item) == figures.whole(item)
    root = ET.fromstring(svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", "A caption")
    assert "<style" not in svg
    assert "DejaVu" not in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", "".join((svg, *(sample for _, sample in figures.legend(item)))))


def test_the_same_figure_under_two_names_shares_no_id() -> None:
    drawn = [figures.panels(figure(BINS, name=name, drawn="steps"))[0][1] for name in ("one", "two")]
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in drawn]
    assert all(ids)
    assert not ids[0] & ids[1]


def drawn_axes(item: Lines) -> Axes:
    axes = Figure(figsize=(4, 3)).add_subplot()
    axes_of.draw(axes, item, item.panels[0], styles(item.panels[0].series))
    axes.figure.canvas.draw()  # type: ignore[union-attr]
    return axes


def test_points_are_not_joined_and_stand_apart_where_they_share_an_x() -> None:
    axes = drawn_axes(EVERY["points on names"])
    dots = [line for line in axes.lines if line.get_marker() != "_"]
    assert {line.get_linestyle() for line in dots} == {"None"}
    pixels = [float(line.get_transform().transform(line.get_xydata())[0, 0]) for line in dots]
    at = {float(x): float(axes.transData.transform((x, 0))[0]) for x in range(3)}
    inch = axes.figure.dpi
    shift = [(pixel - at[float(line.get_xdata()[0])]) * 72 / inch for pixel, line in zip(pixels, dots, strict=True)]
    assert sorted(shift) == pytest.approx([-4, 0, 0, 4])  # points: u is shared, v and w are not
    bars = [segment[:, 1].tolist() for part in axes.collections for segment in part.get_segments() if len(segment)]
    assert pytest.approx([20, 40]) in bars  # the interval of the first point, in percent


def test_a_histogram_has_its_heights_between_its_edges_and_no_height_where_there_is_none() -> None:
    outlines = [patch for patch in drawn_axes(EVERY["shares in bins"]).patches if not patch.get_fill()]
    values, edges, ground = outlines[0].get_data()  # type: ignore[attr-defined]
    assert np.asarray(edges).tolist() == [0.0, 0.5, 1.0, 2.0]
    np.testing.assert_allclose(values, [4.0, math.nan, 8.0])
    assert ground == 0


def test_axes_of_a_histogram_start_at_zero_and_counts_are_whole() -> None:
    axes = drawn_axes(EVERY["counts in bins"])
    assert axes.get_ylim() == pytest.approx((0, 3.15))
    assert [one.get_text() for one in axes.get_yticklabels()][:4] == ["0", "1", "2", "3"]
    assert drawn_axes(EVERY["shares in bins"]).get_ylim()[1] == pytest.approx(10.5)  # not 100 %: bins are small


def test_logarithmic_axes_count_in_decades_and_leave_zero_out() -> None:
    axes = drawn_axes(EVERY["logarithmic lines"])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    labels = [one.get_text() for one in axes.get_yticklabels()]
    assert {"1\u00a0%", "10\u00a0%"} <= set(labels)
    low, high = axes.get_ylim()
    assert 0 < low < 1 < 60 < high
    axes = drawn_axes(EVERY["logarithmic points"])
    assert {"10⁻⁵", "10⁷"} & {one.get_text() for one in axes.get_xticklabels()}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.5, "0.5"), (-2, "−2"), (20_000, "20,000"), (1e6, "10⁶"), (2e-5, "2 · 10⁻⁵"), (-1e-4, "−1 · 10⁻⁴")],
)
def test_a_tick_is_short(value: float, text: str) -> None:
    assert cells.tick(value) == text


def test_the_table_behind_a_histogram_has_a_row_a_bin() -> None:
    (table,) = tables_of(figure(BINS, drawn="steps"))
    assert table.columns == ("x label", "d")
    assert [(head.main, cell.main, cell.small) for head, cell in table.rows] == [
        ("0 to 0.5", "4.00 %", "3.0–5.0"),
        ("0.5 to 1", "—", ""),
        ("1 to 2", "8.00 %", "7.0–10.0"),
    ]
    (table,) = tables_of(EVERY["shares in bins"])  # bins of two series that do not agree: a row an edge
    assert [row[0].main for row in table.rows] == ["0", "0.5", "1", "2"]


def test_no_point_is_missing_from_the_table_where_several_share_an_x() -> None:
    (table,) = tables_of(EVERY["points on numbers"])
    assert [[cell.main for cell in row] for row in table.rows] == [["0.1", "5"], ["0.1", "6"], ["3", "7"]]


@pytest.mark.parametrize(
    "item",
    [
        figure(Series("s", "pgd", (0, 1), (0.1, 0.2)), drawn="steps"),
        figure(Series("s", "pgd", (1, 0), (0.1, None)), drawn="steps"),
        figure(Series("s", "pgd", (1, 1), (0.1, None)), drawn="steps"),
        figure(Series("s", "pgd", (0,), (None,)), drawn="steps"),
    ],
)
def test_bins_without_ascending_edges_are_refused(item: Lines, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"series 's' of the figure f is no histogram\. Expected ascending edges"):
        write_report(write(tmp_path, item))


def test_names_on_an_axis_of_numbers_are_refused() -> None:
    for fields, words in (({"drawn": "steps"}, "a histogram"), ({"log_x": True}, "a logarithmic axis")):
        with pytest.raises(RunError, match=f"f has names for x on {words}. Expected numbers"):
            figures.whole(figure(*DOTS, **fields))


# matrices


def luminance(colour: tuple[float, float, float]) -> float:
    """WCAG 2.1, definition of relative luminance."""
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [LIGHT | HEAT_LIGHT, DARK | HEAT_DARK], ids=["light", "dark"])
def test_every_cell_is_legible_and_its_luminance_alone_tells_its_value(theme: dict[str, str]) -> None:
    found = []
    for share in np.linspace(0, 1, 201):
        css = matrix.Heat("x", float(share)).css
        mixed = re.search(r"color-mix\(in srgb, var\(--([a-z-]+)\) ([\d.]+)%, var\(--([a-z-]+)\)\)", css)
        ink = re.search(r"; color: var\(--([a-z-]+)\)", css)
        assert mixed is not None
        assert ink is not None
        part = float(mixed[2]) / 100
        ground = part * np.array(to_rgb(theme[mixed[1]])) + (1 - part) * np.array(to_rgb(theme[mixed[3]]))
        found.append(luminance(tuple(ground)))
        pair = sorted((found[-1], luminance(to_rgb(theme[ink[1]]))))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5  # WCAG 2.1, level AA
    steps = [b - a for a, b in pairwise(found)]
    assert all(step < 0 for step in steps) or all(step > 0 for step in steps)


def test_cells_are_coloured_by_value_and_the_numbers_stand_behind(tmp_path: Path) -> None:
    item = square(SHARE, None, 1.0, {"mean": 0.9, "sd": 0.01, "n": 5})
    table = matrix.read(item)
    assert [[(one.text, one.share) for one in row] for row in table.rows] == [
        [("25.0 %", 0.25), ("—", None)],
        [("100.0 %", 1.0), ("90.0 %", 0.9)],
    ]
    assert (table.least, table.most) == ("0 %", "100 %")
    (numbers,) = tables_of(item)
    assert (numbers.title, numbers.columns) == ("source × target", ("source", "c", "d(e=1)"))
    assert [(cell.main, cell.small) for row in numbers.rows for cell in row[1:]] == [
        ("25.0 %", "20.0–30.0, n = 400"),
        ("—", ""),
        ("100.00 %", ""),
        ("90.00 ± 1.00 %", "n = 5"),
    ]
    text = write_report(write(tmp_path, item)).read_text()
    assert 'role="img" aria-label="Who fools whom. A heat map; its numbers stand in the table below."' in text
    assert "d(<wbr>e=<wbr>1)" in text
    assert "20.0–30.0, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}400" in text


def test_a_matrix_of_distances_is_coloured_from_least_to_greatest() -> None:
    item = square(2, 4.0, {"value": 3.0, "low": 2.5, "high": 3.5, "n": 7}, math.inf, percent=False)
    table = matrix.read(item)
    assert [one.share for row in table.rows for one in row] == [0.0, 1.0, 0.5, 1.0]
    assert [one.text for row in table.rows for one in row] == ["2", "4", "3", "∞"]
    assert (table.least, table.most) == ("2", "4")
    assert matrix.shown(item, item.cells[1][0]) == cells.Shown("3", "2.5 to 3.5, n = 7")
    alike = matrix.read(square(1, 1, math.nan, "none", percent=False))
    assert [one.text for row in alike.rows for one in row] == ["1", "1", "—", "none"]
    assert [one.share for row in alike.rows for one in row] == [0.5, 0.5, None, None]


def test_the_file_of_a_matrix_has_every_cell_in_its_colour_and_is_the_same_every_time(tmp_path: Path) -> None:
    item = square(SHARE, None, 1.0, 0.0)
    (path,) = draw_all(write(tmp_path, item))
    svg = path.read_text()
    assert path.name == "m.svg"
    assert svg == matrix.whole(item)
    assert {"source", "target", "a", "B()", "c", "25.0 %", "100.0 %", "0.0 %", "—"} <= {
        one.text or "" for one in ET.fromstring(svg).iter(f"{SVG}text")
    }
    assert {HEAT_LIGHT["heat-low"], HEAT_LIGHT["heat-high"]} <= set(re.findall(r"fill: (#[0-9a-f]{6})", svg))
    halfway = (np.array(to_rgb(HEAT_LIGHT["heat-low"])) + to_rgb(HEAT_LIGHT["heat-mid"])) / 2
    fills = [np.array(to_rgb(one)) for one in re.findall(r"fill: (#[0-9a-f]{6})", svg)]
    assert min(np.abs(fill - halfway).max() for fill in fills) < 0.01
    assert "var(--" not in svg
    assert ET.fromstring(svg).get("role") == "img"


def test_an_empty_matrix_is_drawn(tmp_path: Path) -> None:
    write_report(write(tmp_path, Matrix("m", "cap", "", "", (), (), ())))
    assert (tmp_path / "figures" / "m.svg").exists()


@pytest.mark.parametrize("item", [square(1, 0, 1), square(1, 0, 1, 0, 1), square(1, 0, 1, 0, rows=1)])
def test_a_matrix_with_cells_too_many_or_too_few_is_refused(item: Matrix, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the matrix m has 2 rows of .* cells for . names of rows and 2 of columns"):
        write_report(write(tmp_path, item))


def test_a_cell_that_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has the keys median"):
        write_report(write(tmp_path, square({"median": 1}, 0, 0, 0)))


# grids


def test_images_stand_row_by_row_below_their_heads_with_true_pixels(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 1, 1, 2) / 5
    item = grid_of(tmp_path, x, words=("one <b>", "two", "three"), heads=("left", "right"))
    tiles = grids.read(tmp_path, item)
    assert [[tile.words for tile in row] for row in tiles.rows] == [["one <b>", "two"], ["three"]]
    text = write_report(write(tmp_path, item)).read_text()
    assert re.findall(r'alt="([^"]+)"', text) == ["left, row 1", "right, row 1", "left, row 2"]
    assert "one &lt;b&gt;" in text
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(one))))[0, :, 0].tolist()
        for one in re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    ]
    assert shown == [[0, 51], [102, 153], [204, 255]]
    assert tiles.notes == ()


def test_a_grid_without_heads_wraps_and_says_what_was_clipped(tmp_path: Path) -> None:
    item = grid_of(tmp_path, np.linspace(-1, 2, 6 * 200).reshape(2, 3, 1, 200), columns=5)
    assert grids.read(tmp_path, item).notes == (
        "These pixels run from −1.00 to 2.00 and are shown clipped to 0 to 1.",
        "Images of 200 × 1 pixels are thinned out here.",
    )
    text = write_report(write(tmp_path, item)).read_text()
    assert '<ul class="tiles" style="--row: 5">' in text
    assert re.findall(r'alt="([^"]+)"', text) == ["Image 1 of 2", "Image 2 of 2"]


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_grid_of_any_length_becomes_the_same_picture_every_time(n: int, tmp_path: Path) -> None:
    words = tuple(f"{k} in many words that need two lines" for k in range(n))
    item = grid_of(tmp_path, np.full((n, 3, 4, 6), 0.5), words=words, heads=("a", "b"))
    (path,) = draw_all(write(tmp_path, item))
    assert path == tmp_path / "figures" / "g.png"
    first = path.read_bytes()
    draw_all(tmp_path)
    assert path.read_bytes() == first
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    assert write_report(tmp_path).read_text().count("<img ") == n


@pytest.mark.parametrize("shape", [(4,), (1, 2, 2, 2), (1, 1, 0, 2)])
def test_arrays_that_are_no_images_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the grid g has images of shape .* Expected x of shape \(n, 1 or 3"):
        write_report(write(tmp_path, grid_of(tmp_path, np.zeros(shape))))


@pytest.mark.parametrize("fields", [{"columns": 0}, {"words": ("one",)}, {"heads": ("a", "b", "c")}])
def test_a_grid_whose_words_do_not_match_is_refused(fields: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    item = grid_of(tmp_path, np.zeros((2, 1, 2, 2)), **fields)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"the grid g has . words for 2 images and . heads for . columns"):
        draw_all(write(tmp_path, item))


def test_images_of_a_grid_outside_the_run_or_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the grid g names .*, outside .* Expected a file of the run itself"):
        write_report(write(tmp_path / "run", Grid("g", "cap", "../secret.safetensors", 1)))
    item = grid_of(tmp_path, np.zeros((1, 1, 2, 2)))
    save_file({"y": np.zeros(1, np.float32)}, tmp_path / "examples" / "g.safetensors")
    with pytest.raises(RunError, match=r"images of the grid g cannot be read .* Expected safetensors with x; run"):
        write_report(write(tmp_path, item))


@pytest.mark.parametrize("name", ["../m", "f"])
def test_names_of_matrices_and_grids_are_checked_as_others(name: str, tmp_path: Path) -> None:
    for item in (Matrix(name, "", "", "", (), (), ()), Grid(name, "", "x", 1)):
        with pytest.raises(RunError, match=r"names a figure .*each name once"):
            draw_all(write(tmp_path, figure(), item))


def test_names_in_any_script_are_drawn_without_a_word_and_control_characters_left_out():
    with look("salt", {"svg.fonttype": "none"}):
        figure = Figure()
        figure.text(0.5, 0.5, "a\x01猫")
        drawn = svg(figure, "p", "words")
        figure.savefig(io.BytesIO(), format="png")
    assert "a猫" in drawn
    assert "\x01" not in drawn
