"""Writes the tables of the README that are made from the catalogue: what `make docs` runs, and a test compares."""

from pathlib import Path

from steelman.attacks import Attack
from steelman.attacks.strongest import Strongest
from steelman.spec import catalogue

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- attacks: made by `make docs` -->", "<!-- end of attacks -->"
NORMS = {"Linf": "L-inf", "L2": "L2", "L1": "L1", "L0": "L0"}


def attack_table() -> str:
    """Every attack of the catalogue with its norms, what it needs of the model, what an image costs, and the paper."""
    rows = ["| attack | norms | needs | an image costs | paper |", "|---|---|---|---|---|"]
    for name, cls in catalogue("attack").items():
        assert issubclass(cls, Attack)
        norms = " ".join(NORMS[norm] for norm in cls.norms)
        rows.append(f"| `{name}` | {norms} | {cls.needs} | {_cost(cls)} | {cls.paper} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """The README with its table of attacks as the catalogue has it now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{attack_table()}\n\n{END}{after}"


def _cost(cls: type[Attack]) -> str:
    if cls is Strongest:
        return "its members', on what those before left"
    if cls.__name__ == "Foreign":
        return "what the peer spends"
    return cls().cost()


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
