"""A page survives its file: what was written is what is read."""

import json
import math
from pathlib import Path

import pytest

from steelman.page import Bars, Check, Grid, Item, Lines, Matrix, Page, Panel, Samples, Section, Series, Table, Trust

SERIES = Series("FGSM()", "fgsm", (0, 1, 2), (0.1, None, 0.3), (0.05, None, 0.2), (0.2, None, 0.4))
ITEMS = {
    "table": Table("cap", ("a", "b"), (("x", 1), ("y", None), ("z", {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}))),
    "lines": Lines("curve", "cap", "epoch", "accuracy", (Panel("one", (SERIES,)), Panel("two", ())), percent=False),
    "points": Lines("dots", "cap", "x", "y", (Panel("", (SERIES,)),), drawn="points", log_x=True, log_y=True),
    "bars": Bars("bars", "cap", "accuracy", (Series("natural", "natural", ("a", "b"), (1, 0.5)),)),
    "matrix": Matrix(
        "m", "cap", "from", "to", ("a",), ("b", "c"), (({"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}, None),)
    ),
    "grid": Grid("g", "cap", "examples/a.safetensors", 2, ("one", "two"), ("left", "right")),
    "samples": Samples("sheet", "cap", "examples/a.safetensors", ("1",), ("1",), (0.9,), ("2",), (0.6,)),
    "trust": Trust("CNN()", (Check("NaN", "ok", "0 %", "fine"), Check("8 bit", "fail", "9 %", "lost", "round"))),
}


def saved(page: Page, folder: Path) -> Page:
    page.save(folder / "page.json")
    return Page.load(folder / "page.json")


@pytest.mark.parametrize("kind", ITEMS)
def test_every_kind_of_item_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    item: Item = ITEMS[kind]
    page = Page("t", "q?", "h", ("f", "g"), (Section("s", ("one", "two"), (item,)),), "again", {"device": "cpu"})
    assert saved(page, tmp_path) == page


def test_an_empty_page_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert saved(Page("t", "q?", "h"), tmp_path) == Page("t", "q?", "h")


def test_numbers_that_json_cannot_say_are_null(tmp_path: Path) -> None:
    row = ("x", math.nan, math.inf, {"value": math.nan, "low": 0.0, "high": 1.0, "n": 0})
    page = Page("t", "q?", "h", sections=(Section("s", (), (Table("c", ("a", "b", "c", "d"), (row,)),)),))
    table = saved(page, tmp_path).sections[0].items[0]
    assert isinstance(table, Table)
    assert table.rows == (("x", None, None, {"value": None, "low": 0.0, "high": 1.0, "n": 0}),)
    text = (tmp_path / "page.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity are no JSON


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ((), "info"),
        (("ok", "ok"), "ok"),
        (("info", "ok"), "ok"),
        (("info",), "ok"),
        (("ok", "warn", "info"), "warn"),
        (("fail", "warn", "ok"), "fail"),
    ],
)
def test_a_panel_is_as_good_as_its_worst_check(verdicts: tuple[str, ...], worst: str) -> None:
    assert Trust("s", tuple(Check("c", verdict, "", "") for verdict in verdicts)).verdict == worst  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "written", "edited", "words"),
    [
        ("trust", '"verdict": "fail"', '"verdict": "great"', "verdict 'great'"),
        ("lines", '"role": "fgsm"', '"role": "red"', "role 'red'"),
        ("points", '"drawn": "points"', '"drawn": "dots"', "drawn 'dots'"),
        ("bars", '"a",', "", "series 'natural' has more values for one axis"),
    ],
)
def test_an_edited_page_that_makes_no_sense_is_refused(
    kind: str, written: str, edited: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "page.json"
    Page("t", "q?", "h", sections=(Section("s", (), (ITEMS[kind],)),)).save(path)
    text = path.read_text()
    assert written in text
    path.write_text(text.replace(written, edited))
    with pytest.raises(ValueError, match=words):
        Page.load(path)


def test_a_file_that_is_no_page_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text("[]")
    with pytest.raises(TypeError, match="no object"):
        Page.load(tmp_path / "page.json")
