"""The page: what a `Page` says becomes one HTML file without any request, in light and dark, for screen and paper."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from steelman.page import Bars, Check, Grid, Item, Lines, Matrix, Page, Samples, Section, Series, Trust
from steelman.report import cells, figures, grids, matrix, samples
from steelman.report.numbers import Numbers, tables_of
from steelman.report.palette import DARK, HEAT_DARK, HEAT_LIGHT, LIGHT, variables
from steelman.report.pictures import data_uri

_ORDER = ("ok", "info", "warn", "fail")  # as Trust.verdict
_WORDS = {"ok": "OK", "info": "Info", "warn": "Warn", "fail": "Fail"}
_CODE = re.compile(r"`([^`]+)`")
_INTERVAL = re.compile(r"(<code>.*?</code>)|\[\d+\.\d+, \d+\.\d+\](?:, n =| of) \d+")  # code, or what a share says


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
    numbers: tuple[Numbers, ...] = ()
    sheet: samples.Sheet | None = None
    pictures: tuple["Picture", ...] = ()
    map: matrix.Map | None = None
    tiles: grids.Tiles | None = None
    open_checks: tuple[Check, ...] = ()
    passed_checks: tuple[Check, ...] = ()


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
        RunError: images that are missing or do not fit, a cell that is no number, share or mean, a matrix with
            cells too many or too few, a histogram without edges.
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
        light=variables(LIGHT | HEAT_LIGHT),
        dark=variables(DARK | HEAT_DARK),
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
    if isinstance(item, Matrix):
        return Block(item, anchor, near, map=matrix.read(item), numbers=tables_of(item))
    if isinstance(item, Grid):
        return Block(item, anchor, tiles=grids.read(run_dir, item))
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
            numbers=tables_of(item),
        )
    return Block(item, anchor, near)


def _series(item: Lines | Bars) -> list[Series]:
    return [one for panel in item.panels for one in panel.series] if isinstance(item, Lines) else list(item.series)


def _pictures(item: Samples, sheet: samples.Sheet) -> tuple[Picture, ...]:
    return tuple(
        Picture(
            data_uri(triple.original),
            data_uri(triple.change),
            data_uri(triple.adversarial),
            item.true[k],
            item.before[k],
            cells.percent(item.before_confidence[k], 0),
            item.after[k],
            cells.percent(item.after_confidence[k], 0),
        )
        for k, triple in enumerate(sheet.triples)
    )


def _prose(text: str) -> Markup:
    """Escaped text in which `backticks` mark code; the interval and n of a share are set small."""
    marked = _CODE.sub(r"<code>\1</code>", str(escape(text.replace(" %", "\u00a0%"))))
    small = '<span class="interval">{}</span>'.format
    return Markup(_INTERVAL.sub(lambda found: found[0] if found[1] else small(found[0]), marked))


def _name(text: str, breaks: str = "(") -> Markup:
    """Escaped text that may break after the `breaks` of a spec, empty brackets excepted."""
    return Markup(re.sub(rf"([{breaks}])(?!\))", r"\1<wbr>", str(escape(text))))


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
    filters: dict[str, Any] = {"prose": _prose, "name": _name, "show": cells.show, "per_row": _per_row, "uri": data_uri}
    environment.filters.update(filters)
    return environment
