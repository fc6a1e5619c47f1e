"""The page: what a `Page` says becomes one HTML file without any request, in light and dark, for screen and paper."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from steelman.page import Bars, Check, Item, Lines, Page, Real, Samples, Section, Series, Trust
from steelman.report import cells, figures, samples
from steelman.report.palette import DARK, LIGHT, variables

_ORDER = ("ok", "info", "warn", "fail")  # as Trust.verdict
_WORDS = {"ok": "OK", "info": "Info", "warn": "Warn", "fail": "Fail"}
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Badge:
    """A verdict in a word, and where its reasons stand."""

    verdict: str
    word: str
    words: str
    anchor: str


@dataclass(frozen=True)
class Block:
    """One item with all that the template needs to draw it."""

    item: Item
    anchor: str
    badge: Badge | None = None
    panels: tuple[tuple[str, Markup], ...] = ()
    wide: str = ""  # a lone panel again, for wide screens
    legend: tuple[tuple[str, Markup], ...] = ()
    numbers: tuple["Numbers", ...] = ()
    sheet: samples.Sheet | None = None
    pictures: tuple["Picture", ...] = ()
    open_checks: tuple[Check, ...] = ()
    passed_checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Numbers:
    """The values behind one panel: a column a series, a row an x."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[cells.Shown, ...], ...]


@dataclass(frozen=True)
class Picture:
    """One column of a sheet: three PNGs as text, and what the model says of the first and the last."""

    original: str
    change: str
    adversarial: str
    true: str
    before: str
    before_confidence: str
    after: str
    after_confidence: str


def render(page: Page, run_dir: Path, spec: str, env: Mapping[str, object]) -> str:
    """The whole HTML text of a page; pictures are read from the run.

    Raises:
        RunError: a sheet whose images are missing or do not fit, a table cell that is no number, share or mean.
    """
    anchors = {
        (i, j): f"trust-{i + 1}-{j + 1}"
        for i, section in enumerate(page.sections)
        for j, item in enumerate(section.items)
        if isinstance(item, Trust)
    }
    verdict = _worst(page, anchors, range(len(page.sections)))
    sections = []
    for i, section in enumerate(page.sections):
        near = _worst(page, anchors, [i]) or verdict
        blocks = [_block(item, f"item-{i + 1}-{j + 1}", near, run_dir) for j, item in enumerate(section.items)]
        sections.append((section, f"section-{i + 1}", blocks))
    template = _environment().get_template("report.html.jinja")
    text = template.render(
        page=page,
        verdict=verdict,
        sections=sections,
        spec=spec,
        env=env,
        ends=samples.ENDS,
        verdict_words=_WORDS,
        light=variables(LIGHT),
        dark=variables(DARK),
        style=_source("style.css"),
        script=_source("script.js"),
    )
    return text.lstrip() + "\n"  # the macros before the doctype leave empty lines


def _worst(page: Page, anchors: dict[tuple[int, int], str], within: Any) -> Badge | None:
    """The worst verdict among the trust panels of some sections; None without any panel."""
    panels = [(i, j, item) for i in within for j, item in _trusts(page.sections[i])]
    if not panels:
        return None
    i, j, worst = max(panels, key=lambda panel: _ORDER.index(panel[2].verdict))
    checks = [check.verdict for _, _, panel in panels for check in panel.checks]
    counts = [f"{checks.count(kind)} {word}" for kind, word in (("fail", "failed"), ("warn", "warned"))]
    found = " and ".join(text for text in counts if not text.startswith("0 "))
    words = f"{found} of {len(checks)} checks" if found else f"none of {len(checks)} checks failed"
    return Badge(worst.verdict, _WORDS[worst.verdict], words, anchors[i, j])


def _trusts(section: Section) -> list[tuple[int, Trust]]:
    return [(j, item) for j, item in enumerate(section.items) if isinstance(item, Trust)]


def _block(item: Item, anchor: str, near: Badge | None, run_dir: Path) -> Block:
    if isinstance(item, Trust):
        checks = sorted(item.checks, key=lambda check: -_ORDER.index(check.verdict))
        return Block(
            item,
            anchor.replace("item", "trust"),
            open_checks=tuple(check for check in checks if check.verdict != "ok"),
            passed_checks=tuple(check for check in checks if check.verdict == "ok"),
        )
    if isinstance(item, Samples):
        sheet = samples.read(run_dir, item)
        return Block(item, anchor, near, sheet=sheet, pictures=_pictures(item, sheet))
    if isinstance(item, Lines | Bars):
        wide = figures.panels(item, width=720)[0][1] if isinstance(item, Bars) or len(item.panels) == 1 else ""
        attacked = any(series.role not in ("natural", "published") for series in _series(item))
        return Block(
            item,
            anchor,
            near if attacked else None,
            panels=tuple((title, Markup(svg)) for title, svg in figures.panels(item)),
            wide=Markup(wide),
            legend=tuple((label, Markup(svg)) for label, svg in figures.legend(item)),
            numbers=_numbers(item),
        )
    return Block(item, anchor, near)


def _series(item: Lines | Bars) -> list[Series]:
    return [one for panel in item.panels for one in panel.series] if isinstance(item, Lines) else list(item.series)


def _numbers(item: Lines | Bars) -> tuple[Numbers, ...]:
    if isinstance(item, Bars):
        return (_table("", "", item.series, item),)
    return tuple(_table(panel.title, item.x_label, panel.series, item) for panel in item.panels)


def _table(title: str, first: str, series: tuple[Series, ...], item: Lines | Bars) -> Numbers:
    axis = [x for x in figures.grid_axis(item) if any(x in one.x for one in series)]
    rows = [(cells.show(x), *(_point(one, x, item.percent) for one in series)) for x in axis]
    return Numbers(title, (first, *(one.label for one in series)), tuple(rows))


def _point(series: Series, x: str | Real, share: bool) -> cells.Shown:
    if x not in series.x:
        return cells.show(None)
    at = series.x.index(x)
    low, high = (ends[at] if ends else None for ends in (series.low, series.high))
    return cells.between(series.y[at], low, high, share=share)


def _pictures(item: Samples, sheet: samples.Sheet) -> tuple[Picture, ...]:
    return tuple(
        Picture(
            samples.data_uri(triple.original),
            samples.data_uri(triple.change),
            samples.data_uri(triple.adversarial),
            item.true[k],
            item.before[k],
            cells.percent(item.before_confidence[k], 0),
            item.after[k],
            cells.percent(item.after_confidence[k], 0),
        )
        for k, triple in enumerate(sheet.triples)
    )


def _prose(text: str) -> Markup:
    """Escaped text in which `backticks` mark code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text.replace(" %", "\u00a0%")))))


def _name(text: str) -> Markup:
    """Escaped text that may break where a spec's brackets open."""
    return Markup(re.sub(r"\(", "(<wbr>", str(escape(text))))


def _per_row(num: int) -> int:
    """Columns of a sheet: rows of equal length, at most eight a row."""
    rows = max(1, -(-num // 8))
    return max(1, -(-num // rows))


def _source(name: str) -> Markup:
    """A file beside this one, as it is: our own style and script."""
    return Markup((Path(__file__).parent / name).read_text())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("steelman.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"prose": _prose, "name": _name, "show": cells.show, "per_row": _per_row}
    environment.filters.update(filters)
    return environment
