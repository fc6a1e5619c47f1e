"""`steelman attack`: one classifier, one attack, and the adversarial images."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from steelman.cli.options import JsonOption, Subject, ThreatOption
from steelman.cli.output import say, say_json


def attack(
    run: Annotated[str, Parameter(help="The run directory. With --model the attack comes first.")],
    attack: Annotated[str | None, Parameter(help="Such as PGD(steps=100); PGD() without it.")] = None,
    /,
    *,
    threat: ThreatOption = None,
    target: Annotated[int | None, Parameter(help="The class that every image shall be taken for.")] = None,
    save: Annotated[Path | None, Parameter(help="Where to: STEM.safetensors (per image) and STEM.json.")] = None,
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
    runs, method = ((), run) if subject.model is not None else ((run,), attack or "PGD()")
    asked = inputs.measurement(runs, method, threat, subject, target)
    stem = None if save is None else inputs.stem(save)
    outcomes, facts = results.measured(asked, subject)
    if stem is not None:
        outcomes[0].save(stem)
        facts["saved"] = f"{stem}.safetensors"
    if as_json:
        say_json(results.flat(facts))
    else:
        say(*results.lines(facts))
