"""`steelman evaluate`: classifiers under one attack on the same images."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from steelman.cli.options import JsonOption, Subject, TargetOption, ThreatOption
from steelman.cli.output import say, say_json, say_table


def evaluate(
    *runs: Annotated[str, Parameter(help="Run directories, or the text of an evaluation's spec.txt.")],
    threat: ThreatOption = None,
    attack: Annotated[str | None, Parameter(help="Such as PGD(steps=100); Reliable() without it.")] = None,
    target: TargetOption = None,
    curve: Annotated[
        str | None, Parameter(help="Robust accuracy over eps: radii such as 0.1,0.2, or how many up to the threat's.")
    ] = None,
    nearest: Annotated[
        str | None, Parameter(help="The curve's minimal-norm attack; else the usual of the norm.")
    ] = None,
    certifier: Annotated[
        str | None,
        Parameter(help="Prove images, such as Interval() or BranchAndBound(); slow proofs are of what holds."),
    ] = None,
    shield: Annotated[
        str | None, Parameter(help="Put around every model, such as JPEG(quality=50); attacked static and adaptive.")
    ] = None,
    repair_gradients: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Attack again with finite surrogates for bad derivatives."),
    ] = False,
    out: Annotated[Path | None, Parameter(help="A directory for results, page and outcome of every image.")] = None,
    subject: Subject = Subject(),  # noqa: B008 (frozen)
    as_json: JsonOption = False,
) -> None:
    """Measure classifiers under one attack on the same images, and compare them.

    Every share has its number of images and its 95 % interval; several models are compared with the first, image by
    image (McNemar's exact test). With --curve a minimal-norm attack finds how far each image holds, and --attack checks
    it at each eps.
    """
    from steelman.cli import inputs, results
    from steelman.spec import parse

    if len(runs) == 1 and inputs.is_spec(runs[0], "measurement"):
        inputs.alone(
            "measurement",
            subject,
            threat=threat,
            attack=attack,
            target=target,
            curve=curve,
            nearest=nearest,
            certifier=certifier,
            shield=shield,
            repair_gradients=repair_gradients,
        )
        asked = parse(runs[0], "measurement")
    else:
        asked = inputs.measurement(
            runs,
            attack,
            threat,
            subject,
            target,
            curve=curve,
            nearest=nearest,
            certifier=certifier,
            shield=shield,
            repair=repair_gradients,
        )
    facts = results.measured(asked, subject)[1] if out is None else results.kept(asked, subject, out)
    if as_json:
        say_json(results.flat(facts))
    elif len(facts["models"]) == 1:
        say(*results.lines(facts))
    else:
        say(*results.head(facts))
        say_table(*results.table(facts))
        say(*results.asides(facts))
    if asked.curve and not as_json:
        say("", results.curve_head(facts))
        say_table(*results.curve_table(facts))
        say(*results.curve_cost(facts))
    if out is not None and not as_json:
        say(str(out))
