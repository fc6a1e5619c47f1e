"""`steelman transfer-matrix`: adversarial images made on each of several classifiers, judged on every other."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from steelman.cli.options import DataOption, DeviceOption, JsonOption, RootOption, SkipOption, ThreatOption
from steelman.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from steelman.page import Matrix

DEFAULT = ("FGSM()", "PGD(steps=20)", "MIFGSM()", "NIFGSM()", "DIFGSM()", "TIFGSM()", "VMIFGSM()")


def transfer_matrix(
    *runs: Annotated[str, Parameter(help="Run directories: sources and targets.")],
    attacks: Annotated[
        list[str] | None, Parameter(consume_multiple=True, help='Such as "FGSM()" "MIFGSM()"; else seven usual ones.')
    ] = None,
    sets: Annotated[
        list[Path] | None, Parameter(consume_multiple=True, help="What attack --save wrote, on the same images.")
    ] = None,
    threat: ThreatOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    num: Annotated[int | None, Parameter(help="Only the first so many images.")] = None,
    skip_bad: SkipOption = False,
    seed: Annotated[int, Parameter(help="Of the attacks' random choices.")] = 0,
    device: DeviceOption = "cpu",
    out: Annotated[Path | None, Parameter(help="A directory for results, page and adversarial images.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make adversarial images on each classifier, and judge them on every other.

    Every image of the test split is attacked, also one that its source gets wrong. An image counts when the judge is
    right on it before and after; where source and judge are the same classifier the attack is white-box.
    """
    from steelman.cli import crossing
    from steelman.cli.options import Subject

    subject = Subject(None, None, data, data_root, "test", num, skip_bad, seed, device)
    words = ("FGSM()",) if sets and not attacks else tuple(attacks or DEFAULT)
    asked = crossing.asked(runs, words, threat, subject, tuple(sets or ()), own=bool(attacks) or not sets)
    command = ["steelman", "transfer-matrix", *asked.measurement.runs, "--threat", repr(asked.measurement.threat)]
    command += ["--attacks", *map(repr, asked.attacks)] if asked.attacks else []
    facts, items = crossing.crossed(asked, subject, out, shlex.join(command))
    if as_json:
        say_json(facts)
        return
    for item in items:
        say(item.caption)
        say_table(*_table(item))
        say("")
    if out is not None:
        say(str(out))


def _table(item: "Matrix") -> tuple[list[str], list[list[str]]]:
    columns = ["made on", *(f"on {name}" for name in item.columns)]
    return columns, [[row, *map(_share, cells)] for row, cells in zip(item.rows, item.cells, strict=True)]


def _share(cell: Any) -> str:
    return f"{100 * cell['value']:.1f} % [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}] of {cell['n']}"
