"""Writes the tables of the README that are made from the catalogue: what `make docs` runs, and a test compares."""

import importlib
from pathlib import Path

from steelman.attacks import Attack
from steelman.attacks.strongest import Strongest
from steelman.spec import KINDS, Spec, catalogue

README = Path(__file__).parent.parent / "README.md"
NORMS = {"Linf": "L-inf", "L2": "L2", "L1": "L1", "L0": "L0"}
SHOWN = ("threat", "perturbation", "objective", "shield", "certifier", "architecture", "data", "study")


def attack_table() -> str:
    """Every attack of the catalogue with its norms, what it needs of the model, what an image costs, and the paper."""
    rows = ["| attack | norms | needs | an image costs | paper |", "|---|---|---|---|---|"]
    for name, cls in catalogue("attack").items():
        assert issubclass(cls, Attack)
        norms = " ".join(NORMS[norm] for norm in cls.norms)
        rows.append(f"| `{name}` | {norms} | {cls.needs} | {_cost(cls)} | {cls.paper} |")
    return "\n".join(rows)


def name_table() -> str:
    """The names of every other kind that a reader chooses from."""
    rows = [f"| {kind} | {' '.join(f'`{name}`' for name in _names(kind))} |" for kind in SHOWN]
    return "\n".join(("| kind | names |", "|---|---|", *rows))


def with_table(text: str) -> str:
    """The README with its tables as the catalogue has them now."""
    for name, table in (("attacks", attack_table()), ("names", name_table())):
        begin, end = f"<!-- {name}: made by `make docs` -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return text


def _names(kind: str) -> list[str]:
    """The package's own: a test may have made more in the same process."""
    catalogue(kind)  # imports the modules of the kind
    module, base = KINDS[kind]
    return sorted(_finals(getattr(importlib.import_module(module), base)), key=str.lower)


def _finals(base: type[Spec]) -> list[str]:
    below = [cls for cls in base.__subclasses__() if cls.__module__.startswith("steelman.")]
    return [name for cls in below for name in _finals(cls)] or [base.__name__]


def _cost(cls: type[Attack]) -> str:
    if cls is Strongest:
        return "its members', on what those before left"
    if cls.__name__ == "Foreign":
        return "what the peer spends"
    return cls().cost()


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
