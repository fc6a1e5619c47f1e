"""`steelman attack`: one classifier, one attack, and the adversarial images."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from steelman.cli.options import JsonOption, Subject, TargetOption, ThreatOption
from steelman.cli.output import say, say_json, warn


def attack(
    run: Annotated[str | None, Parameter(help="The run directory. With --model the attack comes first.")] = None,
    attack: Annotated[str | None, Parameter(help="Such as PGD(steps=100); Reliable() without it.")] = None,
    /,
    *,
    threat: ThreatOption = None,
    target: TargetOption = None,
    save: Annotated[Path | None, Parameter(help="Where to: STEM.safetensors (per image) and STEM.json.")] = None,
    export: Annotated[Path | None, Parameter(help="The images: FILE.npz, FILE.safetensors or a folder of PNG.")] = None,
    subject: Subject = Subject(),  # noqa: B008 (frozen)
    as_json: JsonOption = False,
) -> None:
    """Attack one classifier, print what holds, save the adversarial images.

    Says how many images are right, how many still are under the attack, and whether that number can be trusted.
    """
    from steelman.cli import inputs, results
    from steelman.errors import UsageError

    if subject.model is not None and attack is not None:
        raise UsageError(f"two models were given, {run} and {subject.model}. Compare models with steelman evaluate.")
    runs, method = ((), run) if subject.model is not None or run is None else ((run,), attack)
    asked = inputs.measurement(runs, method, threat, subject, target)
    stem = None if save is None else inputs.stem(save)
    if export is not None:
        export = inputs.destination(export)
    prepared, (one,), facts = results.struck(asked, subject)
    if stem is not None:
        one.outcome.save(stem)
        facts["saved"] = f"{stem}.safetensors"
    if export is not None:
        facts["exported"], lost = results.exported(one.outcome, prepared.data, export)
        if lost:
            warn(lost)
    if as_json:
        say_json(results.flat(facts))
    else:
        say(*results.lines(facts))
