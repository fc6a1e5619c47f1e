"""`steelman transfer-matrix`: adversarial images made on each of several classifiers, judged on every other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from steelman.cli.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    RootOption,
    SeedOption,
    SkipOption,
    SplitOption,
    ThreatOption,
    whole,
)
from steelman.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from steelman.page import Matrix, Trust


def transfer_matrix(
    *runs: Annotated[str, Parameter(help="Run directories: sources and targets. Or the text of a spec.txt.")],
    attacks: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, negative="", help='Such as "FGSM()" "MIFGSM()"; else seven usual ones.'),
    ] = None,
    sets: Annotated[
        list[Path] | None,
        Parameter(
            consume_multiple=True,
            negative="",
            help="What attack --save wrote, on the same images; it stops at each one's first success.",
        ),
    ] = None,
    threat: ThreatOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    split: SplitOption = None,
    num: Annotated[int | None, whole("Only the first so many images.")] = None,
    skip_bad: SkipOption = False,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    out: Annotated[Path | None, Parameter(help="A directory for results, page and adversarial images.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make adversarial images on each classifier, and judge them on every other.

    Every image of the split is attacked, also one that its source gets wrong. An image counts when the judge is
    right on it before and after; where source and judge are the same classifier the attack is white-box.
    """
    from steelman.cli import crossing
    from steelman.cli.options import Subject
    from steelman.crossing import recorded, verdicts

    subject = Subject(None, None, data, data_root, split, num, skip_bad, seed, device)
    asked = crossing.asked(runs, tuple(attacks or ()), threat, subject, tuple(sets or ()))
    facts = crossing.crossed(asked, subject, out)
    if as_json:
        say_json(facts)
        return
    say(f"{facts['n']} images of {facts['data']} ({facts['split']})", *(f"note     {one}" for one in facts["notes"]))
    for item in recorded(facts):
        say("", item.caption)
        say_table(*_table(item))
    say("", *(f"trust    {panel.verdict}: {panel.subject}{_why(panel)}" for panel in verdicts(facts)))
    if out is not None:
        say(str(out))


def _why(panel: "Trust") -> str:
    names = [check.name for check in panel.checks if check.verdict in ("warn", "fail")]
    return f" ({', '.join(names)})" if names else ""


def _table(item: "Matrix") -> tuple[list[str], list[list[str]]]:
    from steelman.wording import share_text

    columns, cells = (
        ["made on", *(f"on {name}" for name in item.columns)],
        cast("list[list[dict[str, Any]]]", item.cells),
    )
    return columns, [[row, *map(share_text, shares)] for row, shares in zip(item.rows, cells, strict=True)]
