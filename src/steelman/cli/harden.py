"""`steelman harden`: make a trained classifier hold, and say what it gained and what that cost."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from steelman.cli.options import JsonOption, RootOption, ThreatOption, whole
from steelman.cli.output import rerun, say, say_json, say_table


def harden(
    run: Annotated[Path, Parameter(help="The run directory of a training.")],
    /,
    *,
    threat: ThreatOption = None,
    minutes: Annotated[float, Parameter(help="How long training may take.")] = 10.0,
    num: Annotated[int, whole("How many test images before and after are measured on.")] = 1000,
    seed: Annotated[int, whole("Of everything random.")] = 0,
    data_root: RootOption = None,
    out: Annotated[Path | None, Parameter(help="The directory for all of it; else out/harden.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier on against an attacker, with the strongest method that fits into the time.

    Before and after are measured side by side on the same test images, under the strongest usual attack. The path of
    the report is the last line. The same command goes on after a stop.
    """
    from steelman.cli import hardened, inputs, results
    from steelman.report import write_report

    ball = inputs.given_threat(threat)
    place = out or Path("out") / "harden"
    options = {"minutes": f"{minutes:g}", "num": num, "seed": seed, "data_root": data_root, "out": place}
    command = rerun(["steelman", "harden", str(run)], threat=repr(ball), **options)
    facts: dict[str, Any] = hardened.kept(run, ball, minutes, num, place, root=data_root, seed=seed, command=command)
    report = write_report(place / "evaluation")
    if as_json:
        say_json({**facts, "run": str(place / "trained"), "report": str(report)})
        return
    say(f"plan     {facts['plan']}")
    say_table(*results.table(facts))
    say(facts["words"], str(place / "trained"), str(report))
