"""`steelman study`: a question, everything that is done to answer it, and the report."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from steelman.cli.options import DataOption, JsonOption, RootOption, SkipOption, whole
from steelman.cli.output import rerun, say, say_json


def study(
    name: Annotated[str, Parameter(help="A study (steelman list studies), or the text of a run's spec.txt.")],
    /,
    *,
    preset: Annotated[
        Literal["published", "corrected"] | None, Parameter(help="The original's protocol, or the question done well.")
    ] = None,
    scale: Annotated[Literal["smoke", "quick", "full"] | None, Parameter(help="Seconds, minutes or hours.")] = None,
    data: DataOption = None,
    data_root: RootOption = None,
    skip_bad: SkipOption = False,
    seed: Annotated[int | None, whole("Of everything random.")] = None,
    out: Annotated[Path | None, Parameter(help="The run directory; else out/<name>.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a whole study and write its report.

    The path of the report is the last line. The same command goes on after a stop, and does nothing twice.
    """
    from steelman.cli import inputs
    from steelman.cli.bar import reporting
    from steelman.page import Page
    from steelman.report import write_report

    source = None if data is None else inputs.source(data, data_root)
    asked = inputs.study(name, {"preset": preset, "scale": scale, "data": source, "seed": seed}, skip_bad=skip_bad)
    place = out or Path("out") / type(asked).__name__.lower()
    command = rerun(["steelman", "study", repr(asked)], data_root=data_root, out=place)
    with reporting() as progress:
        asked.run(place, data_root, progress, command=command)
        report = write_report(place)
    page = Page.load(place / "results" / "page.json")
    if as_json:
        told = {"headline": page.headline, "findings": page.findings}
        say_json({"study": repr(asked), "run": str(place), "report": str(report), **told})
    else:
        say(page.headline, *(f"- {finding}" for finding in page.findings), str(report))
