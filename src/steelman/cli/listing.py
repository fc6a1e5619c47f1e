"""`steelman list`: what there is, as a table."""

from typing import Annotated, Literal

from cyclopts import Parameter

from steelman.cli.options import JsonOption
from steelman.cli.output import say_json, say_table

KINDS = {
    "attacks": "attack",
    "threats": "threat",
    "models": "architecture",
    "data": "data",
    "studies": "study",
    "objectives": "objective",
    "shields": "shield",
    "certifiers": "certifier",
    "recipes": "recipe",
}


def listing(
    what: Annotated[
        Literal["attacks", "threats", "models", "data", "studies", "objectives", "shields", "certifiers", "recipes"],
        Parameter(help="The kind of thing."),
    ],
    /,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what there is: attacks, threats, models, data, studies, objectives, shields, certifiers or recipes.

    Every name can be given fields, such as PGD(steps=100).
    """
    from steelman.cli.descriptions import described

    found = described(KINDS[what])
    if as_json:
        say_json(found)
        return
    columns = [name for name in found[0] if any(one[name] for one in found)]
    say_table(columns, [[_cell(one[column]) for column in columns] for one in found])


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(name if default is None else f"{name}={default}" for name, default in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)
