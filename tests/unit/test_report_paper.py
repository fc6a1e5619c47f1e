"""Figures in the look of LaTeX: fonts, escapes, and what happens where LaTeX is missing or fails."""

import logging
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from steelman.errors import RunError, UsageError
from steelman.page import Bars, Lines, Page, Panel, Section, Series
from steelman.report import draw_paper, figures, paper
from steelman.report.svg import look

LINES = Lines(
    "risk", "", "eps", "accuracy", (Panel("50 % of A_B & $1", (Series("a_b", "natural", (0.0, 1.5), (0.0, 1.0)),)),)
)
BARS = Bars("bars", "", "share", (Series("FGSM − “x”", "fgsm", ("MLP_bn", "CNN"), (0.5, 1.0)),))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    page = Page("title", "question", "headline", sections=(Section("s", (), (LINES, BARS)),))
    page.save(tmp_path / "results" / "page.json")
    return tmp_path


def test_figures_are_pdf_in_computer_modern(run: Path) -> None:
    paths = draw_paper(run)
    assert [path.name for path in paths] == ["risk.pdf", "bars.pdf"]
    for path in paths:
        text = path.read_bytes()
        assert text.startswith(b"%PDF")
        assert b"cmr10" in text.lower()
        assert b"CreationDate" not in text  # the same figure is the same file


def test_nothing_is_said_of_the_dates_in_fonts(run: Path) -> None:
    draw_paper(run)
    assert not logging.getLogger("fontTools.ttLib").isEnabledFor(logging.WARNING)


def test_without_latex_one_line_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UsageError, match=r"there is no latex here\. Install TeX Live, or use --paper"):
        draw_paper(run, tex=True)


def test_what_latex_complains_of_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Figure, *_: object, **__: object) -> None:
        raise RuntimeError("latex was not able to process the following string:\nb'lp'")

    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(Figure, "savefig", failing)
    with pytest.raises(RunError, match="latex was not able to process"):
        draw_paper(run, tex=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % of A_B & $1", r"50 \% of A\_B \& \$1"),
        ("a^b~{c}#\\", r"a\textasciicircum{}b\textasciitilde{}\{c\}\#\textbackslash{}"),
        ("1 − 2 × 3 | <", r"1 -- 2 \texttimes{} 3 \textbar{} \textless{}"),
        ("plain", "plain"),
    ],
)
def test_words_are_escaped_for_latex(text: str, expected: str) -> None:
    assert paper.escaped(text) == expected


def test_every_word_of_a_figure_is_escaped() -> None:
    with look("risk"):
        figure = figures.composed(LINES)
        paper._escape_all(figure, paper.escaped)
        axes = figure.axes[0]
        assert axes.get_title(loc="left") == r"50 \% of A\_B \& \$1"
        assert figure.legends[0].get_texts()[0].get_text() == r"a\_b"
        assert axes.yaxis.get_major_formatter()(50.0, 0) == r"50 \%"
