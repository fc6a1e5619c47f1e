"""What a report page says, as plain data: studies and evaluations write it, the report draws it.

A page holds every number of its tables and figures, so that each can be drawn again from `results/page.json` alone.
Image sheets point at a safetensors file of the same run directory.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from steelman.strict_json import json_text

# a dict is a Share ({value, low, high, n}) or {mean, sd, n}, to which "percent": True says that it is a mean of shares
Cell: TypeAlias = str | int | float | dict[str, Any] | None
Real: TypeAlias = int | float  # said in full, because types are checked at run time in tests
Role: TypeAlias = Literal["natural", "fgsm", "pgd", "published", "other"]  # keeps one meaning one colour everywhere
Drawn: TypeAlias = Literal["lines", "points", "steps"]
Verdict: TypeAlias = Literal["ok", "info", "warn", "fail"]  # from good to bad


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; shares are shown as percent with n and interval."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Series:
    """One line or one group of bars; y in [0, 1] for shares, low and high are the interval's ends.

    `like` is the label of an earlier series of the same role whose colour it has: the same model, measured otherwise.
    """

    label: str
    role: Role
    x: tuple[Real | str, ...]
    y: tuple[Real | None, ...]
    low: tuple[Real | None, ...] = ()
    high: tuple[Real | None, ...] = ()
    like: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Panel:
    """One set of axes."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Lines:
    """Panels of series that share their axes' meaning; drawn as a grid.

    "lines" joins the points and shades their interval, "points" leaves them apart with bars of error, and "steps" is a
    histogram: x holds the left edges of the bins and, with a y of None, the right edge of the last one.
    """

    name: str  # file stem of the figure
    caption: str
    x_label: str
    y_label: str
    panels: tuple[Panel, ...]
    percent: bool = True
    drawn: Drawn = "lines"
    log_x: bool = False  # values of zero and below have no place on a logarithmic axis: only the table has them
    log_y: bool = False
    kind: Literal["lines"] = "lines"


@dataclass(frozen=True)
class Bars:
    """Grouped bars with intervals: the x of every series are the group names."""

    name: str
    caption: str
    y_label: str
    series: tuple[Series, ...]
    percent: bool = True
    kind: Literal["bars"] = "bars"


@dataclass(frozen=True)
class Samples:
    """A sheet of original / perturbation / adversarial images with prediction and confidence.

    `file` (relative to the run) holds `x` and `x_adv` (n c h w, float32); the lists hold one entry an image.
    """

    name: str
    caption: str
    file: str
    true: tuple[str, ...]
    before: tuple[str, ...]  # prediction on x
    before_confidence: tuple[Real, ...]
    after: tuple[str, ...]  # prediction on x_adv
    after_confidence: tuple[Real, ...]
    kind: Literal["samples"] = "samples"


@dataclass(frozen=True)
class Matrix:
    """A table whose cells are also coloured by their value, such as attack source against target."""

    name: str
    caption: str
    row_label: str  # what the rows are
    column_label: str  # what the columns are
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]  # shares ({value, low, high, n}), numbers, or None
    percent: bool = True
    kind: Literal["matrix"] = "matrix"


@dataclass(frozen=True)
class Grid:
    """A grid of images, row by row, each with a line of words below it.

    `file` (relative to the run) holds `x` (n c h w, float32 in [0, 1]).
    """

    name: str
    caption: str
    file: str
    columns: int  # images in a row
    words: tuple[str, ...] = ()  # one an image, or none at all
    heads: tuple[str, ...] = ()  # one a column, or none at all
    kind: Literal["grid"] = "grid"


@dataclass(frozen=True)
class Check:
    """One trust check: what was measured, what it means in plain words, and what to do."""

    name: str
    verdict: Verdict
    value: str
    words: str
    remedy: str = ""

    @classmethod
    def of(cls, name: str, verdict: Verdict, value: str, words: str, remedy: str) -> "Check":
        """A check whose remedy is told only where one is needed."""
        return cls(name, verdict, value, words, remedy if verdict in ("warn", "fail") else "")


@dataclass(frozen=True)
class Trust:
    """The trust panel of one number: can it be believed?"""

    subject: str  # which model under which attack and threat
    checks: tuple[Check, ...]
    kind: Literal["trust"] = "trust"

    @property
    def verdict(self) -> str:
        """The worst verdict among the checks; what is told only takes nothing away from ok."""
        worst = max((check.verdict for check in self.checks), key=_VERDICTS.index, default="info")
        return "ok" if worst == "info" and self.checks else worst


Item: TypeAlias = Table | Lines | Bars | Matrix | Grid | Samples | Trust


@dataclass(frozen=True)
class Section:
    """A heading, sentences and items."""

    title: str
    text: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole report: a headline, findings in plain words, sections."""

    title: str
    question: str
    headline: str
    findings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    rerun: str = ""  # the command that makes this page again
    facts: dict[str, str] = field(default_factory=dict)  # what a reader needs to compare: data, device, date, seeds

    def save(self, path: Path) -> None:
        """Write as JSON (strict: NaN and infinity are written as null; a table says infinity as text)."""
        path.write_text(json_text(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Page":
        """Read what `save` wrote.

        Raises:
            ValueError, KeyError, TypeError: the file is no page.
        """
        raw = json.loads(path.read_text())
        if not isinstance(raw, dict):
            raise TypeError("no object")
        raw = _frozen(raw)
        raw["sections"] = tuple(_section(section) for section in raw["sections"])
        return cls(**raw)


_VERDICTS = get_args(Verdict)
_ITEMS = {
    "table": Table,
    "lines": Lines,
    "bars": Bars,
    "matrix": Matrix,
    "grid": Grid,
    "samples": Samples,
    "trust": Trust,
}


def _section(raw: dict[str, Any]) -> Section:
    return Section(raw["title"], tuple(raw["text"]), tuple(_item(item) for item in raw["items"]))


def _item(raw: dict[str, Any]) -> Item:
    if raw["kind"] == "lines":
        if raw.get("drawn", "lines") not in get_args(Drawn):
            raise ValueError(f"drawn {raw['drawn']!r}")
        raw["panels"] = tuple(Panel(panel["title"], _series(panel["series"])) for panel in raw["panels"])
    elif raw["kind"] == "bars":
        raw["series"] = _series(raw["series"])
    elif raw["kind"] == "trust":
        raw["checks"] = tuple(_check(check) for check in raw["checks"])
    elif raw["kind"] == "table":
        raw["rows"] = tuple(tuple(row) for row in raw["rows"])
    elif raw["kind"] == "matrix":
        raw["cells"] = tuple(tuple(row) for row in raw["cells"])
    return _ITEMS[raw["kind"]](**_frozen(raw))


def _check(raw: dict[str, Any]) -> Check:
    if raw["verdict"] not in _VERDICTS:
        raise ValueError(f"verdict {raw['verdict']!r}")
    return Check(**raw)


def _series(raw: list[dict[str, Any]]) -> tuple[Series, ...]:
    for one in raw:
        if one["role"] not in get_args(Role):
            raise ValueError(f"role {one['role']!r}")
        if {len(one["y"]), len(one["low"] or one["y"]), len(one["high"] or one["y"])} != {len(one["x"])}:
            raise ValueError(f"series {one['label']!r} has more values for one axis than for the other")
    return tuple(Series(**_frozen(one)) for one in raw)


def _frozen(raw: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only; a page's lists are tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
