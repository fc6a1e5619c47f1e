"""`steelman report`: the HTML page of a run, drawn again from its files."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from steelman.cli.options import JsonOption
from steelman.cli.output import say, say_json


def report(
    run: Annotated[Path, Parameter(help="The directory of a study, a training or an evaluation.")],
    /,
    *,
    paper: Annotated[
        bool, Parameter(negative="", show_default=False, help="Figures as PDF too, in matplotlib's Computer Modern.")
    ] = False,
    tex: Annotated[
        bool, Parameter(negative="", show_default=False, help="Figures as PDF too, set by an installed LaTeX.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the HTML report of a run again.

    Nothing is computed: the page is drawn from what the run wrote. Its path is the last line.
    """
    from steelman.cli import pages
    from steelman.report import draw_paper, write_report
    from steelman.runs import Run

    found = Run.existing(run)
    if not found.has("results/page.json") and found.finished and found.spec_text.startswith("Training("):
        pages.keep_training_page(found)
    path = write_report(run)
    drawn = draw_paper(run, tex=tex) if paper or tex else ()
    if as_json:
        say_json({"report": str(path), "figures": [str(figure) for figure in drawn]})
    else:
        say(str(path))
