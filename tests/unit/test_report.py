"""The report without a browser: numbers in words, figures byte for byte, honest images, clear complaints."""

import base64
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from steelman.errors import RunError
from steelman.page import Bars, Check, Item, Lines, Page, Panel, Samples, Section, Series, Table, Trust
from steelman.report import cells, draw_all, figures, palette, pictures, samples, write_report
from steelman.stats import Share
from steelman.wording import share_text

SHARE = {"value": 0.9905, "low": 0.9884, "high": 0.9923, "n": 10_000}


def write(run_dir: Path, *items: Item, **fields: object) -> Path:
    """A run directory whose page has one section with these items."""
    page = Page("Title", "Question?", "Headline", sections=(Section("Section", (), items),), **fields)  # type: ignore[arg-type]
    (run_dir / "results").mkdir(parents=True, exist_ok=True)
    page.save(run_dir / "results" / "page.json")
    return run_dir


def lines(*series: Series, name: str = "curve", percent: bool = True) -> Lines:
    return Lines(name, "A caption", "epoch", "accuracy", (Panel("one", series),), percent)


def sheet_of(run_dir: Path, x: np.ndarray, x_adv: np.ndarray, after: str = "2") -> Samples:
    (run_dir / "examples").mkdir(parents=True, exist_ok=True)
    save_file({"x": x.astype(np.float32), "x_adv": x_adv.astype(np.float32)}, run_dir / "examples" / "a.safetensors")
    n = len(x)
    return Samples(
        "sheet", "cap", "examples/a.safetensors", ("1",) * n, ("1",) * n, (0.9,) * n, (after,) * n, (0.6,) * n
    )


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


# numbers


@pytest.mark.parametrize(
    ("cell", "main", "small"),
    [
        (SHARE, "99.05 %", "98.8–99.2, n = 10,000"),
        ({"value": 0.5, "low": 0.3986, "high": 0.6014, "n": 100}, "50.0 %", "39.9–60.1, n = 100"),
        ({"value": None, "low": 0.0, "high": 1.0, "n": 0}, "—", "n = 0"),
        ({"value": 0.25}, "25.00 %", ""),
        ({"mean": 1.25, "sd": 0.125, "n": 3}, "1.25 ± 0.125", "n = 3"),
        ({"mean": 1.25, "sd": None, "n": 1}, "1.25", "n = 1"),
        ({"mean": 0.9, "sd": 0.01, "n": 5, "percent": True}, "90.00 ± 1.00 %", "n = 5"),
        ({"mean": 0.9, "sd": None, "percent": True}, "90.00 %", ""),
        (None, "—", ""),
        (True, "yes", ""),
        (False, "no", ""),
        ("12 % of a <b>", "12\u00a0% of a <b>", ""),
        (1234, "1234", ""),
        (50_000, "50,000", ""),
        (-3, "−3", ""),
        (-12_345, "−12,345", ""),
        (0.0, "0", ""),
        (0.35, "0.35", ""),
        (12_345.6, "12,346", ""),
        (-0.000123, "−1.23 · 10⁻⁴", ""),
        (math.nan, "—", ""),
        (math.inf, "∞", ""),
        (-math.inf, "−∞", ""),
    ],
)
def test_a_cell_in_words(cell: object, main: str, small: str) -> None:
    shown = cells.show(cell)  # type: ignore[arg-type]
    assert (shown.main, shown.small) == (main, small)
    assert shown.numeric == (not isinstance(cell, str | bool))


def test_a_cell_that_is_neither_share_nor_mean_is_refused() -> None:
    with pytest.raises(RunError, match=r"has the keys median.*Expected value, low, high, n"):
        cells.show({"median": 1.0})


def test_a_point_of_a_figure_in_words() -> None:
    assert cells.between(0.5, 0.4, 0.6, share=True) == cells.Shown("50.00 %", "40.0–60.0")
    assert cells.between(2.5, 2.0, 3.0, share=False) == cells.Shown("2.5", "2 to 3")
    assert cells.between(None, None, None, share=True) == cells.Shown("—")


# colours


def relative_luminance(colour: str) -> float:
    """WCAG 2.1, definition of relative luminance."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((relative_luminance(one), relative_luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
def test_every_colour_stands_out_from_its_ground(theme: dict[str, str]) -> None:
    for ground in ("ground", "card"):
        for token in ("ink", "muted", "link"):
            assert contrast(theme[token], theme[ground]) >= 4.5
    for role in ("natural", "fgsm", "pgd", "published", "other", "other-2", "other-3"):
        assert contrast(theme[role], theme["card"]) >= 3  # WCAG 2.1, 1.4.11: graphics
    for verdict in ("ok", "warn", "fail", "info"):
        assert contrast(theme[verdict], theme[f"{verdict}-ground"]) >= 4.5
        assert contrast(theme[verdict], theme["card"]) >= 4.5


def test_no_two_series_look_alike_and_a_role_keeps_its_colour() -> None:
    roles = ("natural", "fgsm", "pgd", "published", "other", "other", "other", "pgd")
    looks = palette.styles(Series(f"{k}", role, (), ()) for k, role in enumerate(roles))  # type: ignore[arg-type]
    assert len({(look.token, look.dash, look.marker) for look in looks.values()}) == len(roles)
    assert looks["pgd", "2"].token == looks["pgd", "7"].token == "pgd"
    first = [looks[role, f"{k}"] for k, role in enumerate(roles[:5])]
    assert len({look.dash for look in first}) == len({look.marker for look in first}) == 5  # not by colour alone


def test_a_series_like_another_has_its_colour_and_is_told_from_it_otherwise() -> None:
    names = ("a", "b", "c", "d", "e")  # more models than colours of their own
    series = [Series(name, "other", (), ()) for name in names]
    looks = palette.styles([*series, *(Series(f"{name}, certified", "other", (), (), like=name) for name in names)])
    for name in names:
        one, twin = looks["other", name], looks["other", f"{name}, certified"]
        assert one.token == twin.token
        assert one.dash != twin.dash
        assert (one.hollow, twin.hollow) == (False, True)


# figures

NATURAL = Series("natural", "natural", (0, 1, 2), (0.9, 0.8, 0.7), (0.85, 0.75, 0.65), (0.95, 0.85, 0.75))
GAPS = Series("PGD(steps=40)", "pgd", (0, 1, 2), (0.1, None, 0.3))
EVERY_FIGURE = {
    "percent": lines(NATURAL, GAPS),
    "plain numbers": lines(NATURAL, percent=False),
    "radii": lines(Series("a", "other", (0.0, 0.05, 0.1), (1.0, 0.5, 0.0))),
    "names": lines(Series("a", "fgsm", ("clean", "Strongest((FGSM(), PGD()))"), (1.0, 0.5))),
    "nothing": lines(percent=False),
    "bars": Bars("bars", "cap", "accuracy", (Series("a", "natural", ("x", "y"), (0.9, None), (0.8, None), (1.0, None)),
                                             Series("b", "published", ("x",), (0.7,)))),
    "plain bars": Bars("bars", "cap", "distance", (Series("a", "pgd", ("x", "y"), (3.0, 1.5)),), percent=False),
}  # fmt: skip


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", EVERY_FIGURE)
def test_a_figure_is_the_same_every_time_and_leaks_nothing_into_a_page(name: str) -> None:
    item = EVERY_FIGURE[name]
    assert figures.whole(item) == figures.whole(item)
    for (_, svg), (_, again) in zip(figures.panels(item), figures.panels(item), strict=True):
        assert svg == again
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert item.caption in (root.get("aria-label") or "")
        assert "<style" not in svg  # rules in an inlined SVG would hold for the whole page
        assert "DejaVu" not in svg
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= set()  # colours come from the page's variables


def test_the_same_data_under_two_names_share_no_id() -> None:
    first, second = (figures.panels(lines(NATURAL, GAPS, name=name))[0][1] for name in ("one", "two"))
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_axes_say_whole_epochs_and_percent_from_0_to_100() -> None:
    labels = texts(figures.panels(lines(NATURAL))[0][1])
    assert [label for label in labels if "%" in label] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert [label for label in labels if label.isdigit()] == ["0", "1", "2"]
    assert {"epoch", "accuracy"} <= set(labels)


def test_bars_say_their_value_or_that_there_is_none() -> None:
    labels = texts(figures.panels(EVERY_FIGURE["bars"])[0][1])
    assert {"x", "y", "90.0", "70.0", "no value"} <= set(labels)
    assert labels.count("no value") == 2  # y of the first series is None, the second has no y


def test_the_file_holds_all_panels_and_labels_and_is_white() -> None:
    item = Lines("grid", "cap", "epoch", "accuracy", tuple(Panel(f"model {k}", (NATURAL, GAPS)) for k in range(3)))
    svg = figures.whole(item)
    assert {"model 0", "model 1", "model 2", "natural", "PGD(steps=40)"} <= set(texts(svg))
    assert "fill: #ffffff" in svg
    assert "var(--" not in svg  # a file stands alone


def test_numeric_axes_ascend_and_names_keep_their_order() -> None:
    falling = lines(Series("a", "other", (2, 0), (0.0, 0.0)), Series("b", "other", (1,), (0.0,)))
    assert figures.grid_axis(falling) == (0, 1, 2)
    assert figures.grid_axis(lines(Series("a", "other", ("z", "a"), (0.0, 0.0)))) == ("z", "a")


# sheets


def test_pixels_are_shown_as_they_are(tmp_path: Path) -> None:
    x = np.array([0.0, 0.2, 1.0, 0.5]).reshape(1, 1, 2, 2)
    sheet = samples.read(tmp_path, sheet_of(tmp_path, x, x))
    assert pixels(pictures.data_uri(sheet.triples[0].original))[..., 0].tolist() == [[0, 51], [255, 128]]
    assert sheet.notes == ("No pixel was changed.",)


def test_the_change_of_grey_images_is_coloured_by_sign_about_white(tmp_path: Path) -> None:
    delta = np.array([0.35, -0.35, 0.0, 0.175]).reshape(1, 1, 2, 2)
    sheet = samples.read(tmp_path, sheet_of(tmp_path, np.full((1, 1, 2, 2), 0.5), 0.5 + delta))
    up, down, none, half = sheet.triples[0].change.reshape(4, 3).astype(int)
    assert sheet.scale == pytest.approx(0.35)
    assert [f"#{''.join(f'{c:02x}' for c in end)}" for end in (down, up)] == list(samples.ENDS)
    assert (none >= 253).all()
    assert np.abs(half - (up + 255) / 2).max() <= 2  # half as much, half as far from white
    assert sheet.notes == ()


def test_the_change_of_colour_images_is_about_grey_and_says_its_scale(tmp_path: Path) -> None:
    x = np.full((1, 3, 1, 2), 0.5)
    x_adv = x.copy()
    x_adv[0, 0, 0, 0] += 0.1
    sheet = samples.read(tmp_path, sheet_of(tmp_path, x, x_adv))
    assert sheet.triples[0].change.tolist() == [[[255, 128, 128], [128, 128, 128]]]
    assert "mid grey is unchanged, full colour is ±0.1" in sheet.notes[0]


def test_pixels_outside_the_range_are_clipped_and_said(tmp_path: Path) -> None:
    x = np.array([0.0, 1.0]).reshape(1, 1, 1, 2)
    item = sheet_of(tmp_path, x, x + np.array([-0.35, 0.35]).reshape(1, 1, 1, 2))
    sheet = samples.read(tmp_path, item)
    assert sheet.triples[0].adversarial[0, :, 0].tolist() == [0, 255]
    assert "run from −0.35 to 1.35" in sheet.notes[0]
    text = write_report(write(tmp_path, item)).read_text()
    assert "run from −0.35 to 1.35" in text
    assert "shown clipped" in text


def test_large_images_are_thinned_out_and_said(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((1, 3, 224, 160), dtype=np.float32)
    sheet = samples.read(tmp_path, sheet_of(tmp_path, x, x.clip(0.1, 0.9)))
    shown = pixels(pictures.data_uri(sheet.triples[0].original))
    assert max(shown.shape) <= 160
    assert (shown == np.rint(255 * x[0]).transpose(1, 2, 0)[::2, ::2]).all()  # kept pixels are true ones
    assert "160 × 224 pixels are thinned out" in sheet.notes[-1]


@pytest.mark.parametrize("n", [0, 1, 11])
def test_a_sheet_of_any_length_becomes_a_picture(n: int, tmp_path: Path) -> None:
    write(tmp_path, sheet_of(tmp_path, np.zeros((n, 1, 4, 4)), np.ones((n, 1, 4, 4))))
    (path,) = draw_all(tmp_path)
    assert path == tmp_path / "figures" / "sheet.png"
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    assert write_report(tmp_path).read_text().count("<img ") == 3 * n


# the whole


class Outline(HTMLParser):
    """Which elements a page has, and whether they close in order."""

    void = ("meta", "link", "img", "br", "wbr", "use", "path", "circle", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.void or self.open.pop() == tag


def everything(run_dir: Path) -> tuple[Item, ...]:
    return (
        Table("cap", ("model", "natural"), (("CNN()", SHARE), ("MLP()", None))),
        *(item for name, item in EVERY_FIGURE.items() if name in ("percent", "bars")),
        sheet_of(run_dir, np.zeros((2, 1, 4, 4)), np.ones((2, 1, 4, 4))),
        Trust("CNN(), FGSM()", (Check("a", "ok", "0 %", "fine"), Check("b", "warn", "9 %", "odd", "look"))),
    )


def test_the_page_is_one_well_formed_file_that_asks_no_network(tmp_path: Path) -> None:
    path = write_report(write(tmp_path, *everything(tmp_path), rerun="steelman study finetune", facts={"seed": "0"}))
    text = path.read_text()
    outline = Outline()
    outline.feed(text)
    assert text.startswith("<!DOCTYPE html>")
    assert outline.open == []
    linked = [value or "" for _, attrs in outline.seen for name, value in attrs.items() if name in ("src", "href")]
    assert linked
    assert all(link.startswith(("#", "data:")) for link in linked)
    policy = next(attrs["content"] for tag, attrs in outline.seen if attrs.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert sorted(one.name for one in (tmp_path / "figures").iterdir()) == ["bars.svg", "curve.svg", "sheet.png"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_report_is_the_same_every_time(tmp_path: Path) -> None:
    path = write_report(write(tmp_path, *everything(tmp_path)))
    first = path.read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_configuration_and_environment_are_shown_where_they_exist(tmp_path: Path) -> None:
    text = write_report(write(tmp_path)).read_text()
    assert "Configuration" not in text
    assert "Environment" not in text
    (tmp_path / "spec.txt").write_text("Finetune(preset='published')\n")
    (tmp_path / "env.json").write_text('{"torch": "2.13.0", "threads": 2}')
    text = write_report(tmp_path).read_text()
    assert "Finetune(preset=&#39;published&#39;)" in text
    assert "<dt>threads</dt><dd>2</dd>" in text


def test_interval_and_n_of_a_share_are_set_small_and_nothing_else_is(tmp_path: Path) -> None:
    share = Share.counted(45, 60)
    said = share_text(share.to_json())
    item = Table(f"{said} hold within [0, 1] and [0.3, 0.7) of it; {share}.", ("model",), ())
    text = write_report(write(tmp_path, item)).read_text()
    small = [said[said.index("[") :], str(share)[str(share).index("[") :]]
    assert re.findall(r'<span class="interval">(.*?)</span>', text) == small


def test_markup_in_any_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    items = (
        Table(evil, (evil,), ((evil,),)),
        Lines("curve", evil, evil, evil, (Panel(evil, (Series(evil, "fgsm", (0, 1), (0.0, 1.0)),)),)),
        Trust(evil, (Check(evil, "fail", evil, evil, evil),)),
    )
    run_dir = write(tmp_path, *items, rerun=evil, facts={evil: evil}, findings=(evil, "`" + evil + "`"))
    (run_dir / "spec.txt").write_text(evil)
    (run_dir / "env.json").write_text(json.dumps({evil: evil}))
    text = write_report(run_dir).read_text()
    assert text.count("<script>") == 1  # our own
    assert "alert(1)" in text
    assert "<script" not in (tmp_path / "figures" / "curve.svg").read_text()


@pytest.mark.parametrize(
    ("items", "badges"),
    [
        ((lines(NATURAL),), 0),  # no panel, nothing to say
        ((lines(NATURAL), Trust("t", (Check("c", "ok", "", ""),))), 0),  # natural accuracy needs no attack
        ((lines(GAPS), Trust("t", (Check("c", "ok", "", ""),))), 1),
        ((Table("c", ("a",), ()), Trust("t", ())), 1),
    ],
)
def test_adversarial_numbers_stand_beside_their_verdict(items: tuple[Item, ...], badges: int, tmp_path: Path) -> None:
    text = write_report(write(tmp_path, *items)).read_text()
    assert text.count("Can these numbers be trusted? </span>") == badges
    assert ('class="verdict"' in text) == any(isinstance(item, Trust) for item in items)


def test_verdicts_count_what_failed(tmp_path: Path) -> None:
    checks = [Check("c", verdict, "", "") for verdict in ("ok", "fail", "warn", "warn", "ok")]  # type: ignore[arg-type]
    text = write_report(write(tmp_path, Trust("t", tuple(checks)))).read_text()
    assert "1 failed and 2 warned of 5 checks" in text
    text = write_report(write(tmp_path, Trust("t", tuple(checks[:1])))).read_text()
    assert "none of 1 checks failed" in text


# complaints


def test_a_directory_without_a_page_is_no_run(tmp_path: Path) -> None:
    for use in (write_report, draw_all):
        with pytest.raises(RunError, match=r"holds no results/page\.json.*run it first"):
            use(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"title": "t", "sections": 3}',
        '{"title": "t", "sections": [], "odd": 1}',
        '{"title": "t", "sections": [{"title": "s", "text": [], "items": [{"kind": "odd"}]}]}',
        "\x00",
    ],
)
def test_a_page_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "page.json").write_text(text)
    with pytest.raises(RunError, match=r"page\.json cannot be read as a page.*Run the study again") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../evil", "", "a/b", ".hidden"])
def test_a_figure_may_not_leave_the_run(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"names a figure .* it becomes a file"):
        draw_all(write(tmp_path, lines(NATURAL, name=name)))


def test_two_figures_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"names a figure 'curve'.*each name once"):
        draw_all(write(tmp_path, lines(NATURAL), lines(GAPS)))


def test_images_outside_the_run_are_refused(tmp_path: Path) -> None:
    item = Samples("sheet", "cap", "../secret.safetensors", (), (), (), (), ())
    with pytest.raises(RunError, match=r"outside .* Expected a file of the run itself"):
        write_report(write(tmp_path / "run", item))


def test_images_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    item = sheet_of(tmp_path, np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)))
    write(tmp_path, item)
    path = tmp_path / "examples" / "a.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, path)
    with pytest.raises(RunError, match=r"sheet sheet cannot be read .*x_adv.*run the study again"):
        write_report(tmp_path)
    path.write_bytes(b"no tensors")
    with pytest.raises(RunError, match="sheet sheet cannot be read"):
        write_report(tmp_path)
    path.unlink()
    with pytest.raises(RunError, match="sheet sheet cannot be read"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("shape", [(1, 2, 2, 2), (2, 1, 2, 2), (1, 4)])
def test_images_that_do_not_fit_their_labels_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    item = sheet_of(tmp_path, np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)))
    zeros = np.zeros(shape, np.float32)
    save_file({"x": zeros, "x_adv": zeros}, tmp_path / "examples" / "a.safetensors")
    with pytest.raises(RunError, match=r"for 1 labels\. Expected x and x_adv of one shape"):
        samples.read(tmp_path, item)


def test_an_environment_that_is_no_flat_object_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    for text, words in (("{", r"env\.json is not JSON"), ("[]", r"env\.json holds a list.*one flat object")):
        (tmp_path / "env.json").write_text(text)
        with pytest.raises(RunError, match=words):
            write_report(tmp_path)


def test_a_configuration_that_is_no_text_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "spec.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RunError, match=r"spec\.txt cannot be read"):
        write_report(tmp_path)


def test_a_report_that_cannot_be_written_leaves_nothing_half_done(tmp_path: Path) -> None:
    write(tmp_path, lines(NATURAL))
    (tmp_path / "report.html" / "in the way").mkdir(parents=True)
    with pytest.raises(RunError, match=r"cannot write .*report\.html.*Make room"):
        write_report(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
