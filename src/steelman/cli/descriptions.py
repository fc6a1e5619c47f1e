"""What the catalogue says of each name: for attacks norms, needs, cost and paper, for all their fields."""

import dataclasses
import inspect
from typing import Any

from steelman.attacks import Attack
from steelman.errors import SpecError
from steelman.recipes import RECIPES, Named
from steelman.spec import Spec, catalogue, parse


def described(kind: str) -> list[dict[str, Any]]:
    """One object a name, sorted; `fields` maps each field to its default as text, or to None when it must be given.

    Of kind "recipe" those with a name of their own.
    """
    if kind == "recipe":
        return [_recipe(named) for named in RECIPES]
    return [_attack(cls) if issubclass(cls, Attack) else _other(cls) for cls in catalogue(kind).values()]


def _attack(cls: type[Attack]) -> dict[str, Any]:
    return {
        "name": cls.__name__,
        "norms": list(cls.norms),
        "needs": cls.needs,
        "cost": _cost(cls),
        "paper": cls.paper,
        "fields": _fields(cls),
        "description": _sentence(cls),
    }


def _recipe(named: Named) -> dict[str, Any]:
    return {
        "name": named.name,
        "data": named.data,
        "minutes": named.minutes,
        "expected": named.expected,
        "model": repr(named.architecture),
        "recipe": repr(named.recipe),
    }


def _other(cls: type[Spec]) -> dict[str, Any]:
    paper = getattr(cls, "paper", None) or getattr(cls, "question", "")
    return {"name": cls.__name__, "fields": _fields(cls), "description": _sentence(cls), "paper": paper}


def _cost(cls: type[Attack]) -> str:
    try:
        return parse(cls.__name__, "attack").cost()
    except SpecError:  # a field must be given
        return "what the peer spends" if cls.__name__ == "Foreign" else "that of its members"


def _fields(cls: type[Spec]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for field in sorted(dataclasses.fields(cls), key=lambda field: field.kw_only is True):
        if field.default_factory is not dataclasses.MISSING:
            found[field.name] = repr(field.default_factory())
        else:
            found[field.name] = None if field.default is dataclasses.MISSING else repr(field.default)
    return found


def _sentence(cls: type[Spec]) -> str:
    """The first paragraph of the docstring, in one line."""
    return " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
