"""`steelman certify`: what no allowed change can break."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from steelman.cli.options import JsonOption, Subject, ThreatOption
from steelman.cli.output import rerun, say, say_json, say_table

if TYPE_CHECKING:
    from steelman.certification import Certification


def certify(
    *runs: Annotated[str, Parameter(help="One run directory, unless --model is given; or the text of a spec.txt.")],
    certifier: Annotated[
        str | None, Parameter(help="Such as CROWN(), BranchAndBound() or Smoothing(sigma=0.5); Interval() without it.")
    ] = None,
    threat: ThreatOption = None,
    radii: Annotated[
        str | None, Parameter(help="Such as 0.5,1,1.5, or how many up to the threat's eps; that alone without it.")
    ] = None,
    out: Annotated[Path | None, Parameter(help="A directory for results and page; a stopped run goes on.")] = None,
    subject: Subject = Subject(),  # noqa: B008 (frozen)
    as_json: JsonOption = False,
) -> None:
    """Prove how many images no allowed change can break: a lower bound of the accuracy under any attack.

    Smoothing certifies the model under noise, the other certifiers the model itself.
    """
    facts = _certified(_asked(runs, certifier, threat, radii, subject), subject, out)
    if as_json:
        say_json(facts)
        return
    say(f"{facts['certifier']} of {facts['of']}: {facts['model']}, {facts['n']} images of {facts['data']}")
    say(*(f"note     {note}" for note in facts["notes"]))
    say_table(*_table(facts))
    if out is not None:
        say(str(out))


def _asked(
    runs: tuple[str, ...], certifier: str | None, threat: str | None, radii: str | None, subject: Subject
) -> "Certification":
    """What the words ask for: a spec, or its parts."""
    from steelman.certification import Certification
    from steelman.cli import inputs
    from steelman.spec import parse

    if len(runs) == 1 and inputs.is_spec(runs[0], "certification"):
        inputs.alone("certification", subject, certifier=certifier, threat=threat, radii=radii)
        return parse(runs[0], "certification")
    measurement = inputs.measurement(runs, None, threat, subject)
    ball = inputs.given_threat(threat)
    at = (ball.eps,) if radii is None else inputs.radii(radii, ball, "--radii")
    return Certification(parse(certifier or "Interval()", "certifier"), measurement, at)


def _certified(asked: "Certification", subject: Subject, out: Path | None) -> dict[str, Any]:
    import torch

    from steelman.certification import certification_page, compute, record
    from steelman.cli import pages, results
    from steelman.cli.bar import reporting
    from steelman.report import write_report
    from steelman.runs import Run

    with reporting() as progress:
        prepared = results.ready(asked.measurement, subject, progress)
        if out is None:
            return record(asked, prepared, compute(asked, prepared, progress))
        asked = dataclasses.replace(asked, measurement=dataclasses.replace(asked.measurement, data=prepared.source))
        command = rerun(["steelman", "certify", repr(asked)], **subject.place(), out=out)
        with Run.open(out, repr(asked), prepared.digest, command=command) as run:
            if not run.finished:
                masks = compute(asked, prepared, progress, run)
                facts = record(asked, prepared, masks)
                rows = {"right": masks[0], "certified": torch.stack(masks[1:])}
                run.write_tensors("examples/masks.safetensors", rows)
                pages.keep(run, certification_page(facts, command))
                run.write_json("certification", facts)
                run.finish()
            write_report(out)
            return run.read_json("certification")


def _table(facts: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One row a radius, the natural accuracy first."""
    from steelman.stats import Share

    rows = [["0 (natural)", str(Share.from_json(facts["natural"]))]]
    rows += [[f"{point['eps']:.4g}", str(Share.from_json(point["certified"]))] for point in facts["points"]]
    return ["eps", "certified"], rows
