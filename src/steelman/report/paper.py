"""Figures in the look of LaTeX, as PDF for a paper: in matplotlib's own Computer Modern, or set by LaTeX itself."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from steelman.errors import RunError, UsageError
from steelman.page import Bars, Lines, Page
from steelman.report import figures
from steelman.report.svg import look

MODERN: dict[str, Any] = {  # ships with matplotlib; what it lacks comes from the second
    "font.family": ["cmr10", "DejaVu Serif"],
    "mathtext.fontset": "cm",
    "axes.formatter.use_mathtext": True,
    "text.parse_math": True,  # the numbers on the axes are set as mathematics
    "pdf.fonttype": 42,
}
LATEX: dict[str, Any] = {
    "text.usetex": True,
    "font.family": "serif",
    "text.latex.preamble": r"\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{textcomp}",
}
_SPECIAL = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "--",
    "×": r"\texttimes{}",
}
_ELSEWHERE = (
    {char: f"${char}$" for char in "<>|"}
    | {char: f"$\\{char}$" for char in "_{}"}
    | {"$": r"\$", "\\": r"$\backslash$"}
)


def draw_paper(run_dir: Path, page: Page, *, tex: bool) -> tuple[Path, ...]:
    """Draw the lines and bars of a page into `figures/<name>.pdf`; their paths.

    Args:
        run_dir: the page's run.
        page: whose figures.
        tex: set every word by LaTeX, which must be installed; else in matplotlib's Computer Modern.

    Raises:
        UsageError: LaTeX is asked for and not installed.
        RunError: no room to write, or LaTeX failed.
    """
    if tex and (missing := [name for name in ("latex", "kpsewhich") if shutil.which(name) is None]):
        raise UsageError(
            f"--tex needs LaTeX, and there is no {missing[0]} here. Install TeX Live, or use --paper, which needs none."
        )
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of the dates in matplotlib's own fonts
    items = [item for section in page.sections for item in section.items if isinstance(item, Lines | Bars)]
    paths: list[Path] = []
    for item in items:
        paths.append(run_dir / "figures" / f"{item.name}.pdf")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        with look(item.name, LATEX if tex else MODERN):
            figure = figures.composed(item)
            _escape_all(figure, escaped if tex else as_modern)
            if not tex:
                for text in figure.findobj(Text):
                    text.set(fontweight="normal")  # Computer Modern comes in one weight
            _save(figure, paths[-1])
    return tuple(paths)


def escaped(text: str) -> str:
    """The text as LaTeX prints it literally."""
    return "".join(_SPECIAL.get(char, char) for char in text)


def as_modern(text: str) -> str:
    """The text for matplotlib's Computer Modern, which has other letters in the places of these."""
    return "".join(_ELSEWHERE.get(char, char) for char in text)


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, format="pdf", metadata={"CreationDate": None})
    except (OSError, RuntimeError) as error:  # matplotlib hands on LaTeX's complaint as a RuntimeError
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(f"cannot draw {path} ({reason}). Make room, or draw it without LaTeX: --paper.") from None


def _escape_all(figure: Figure, escape: Callable[[str], str]) -> None:
    """Escape every word of a figure, those on the axes' ticks when they are made."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(escape(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            words = axis.get_major_formatter()
            if isinstance(words, FuncFormatter | FixedFormatter):  # the others write mathematics
                axis.set_major_formatter(FuncFormatter(lambda value, at, words=words: escape(words(value, at))))
