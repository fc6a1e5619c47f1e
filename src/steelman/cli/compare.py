"""`steelman compare`: several attacks on one classifier and the same images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from steelman.cli.options import JsonOption, Subject, ThreatOption
from steelman.cli.output import rerun, say, say_json, say_table

if TYPE_CHECKING:
    from steelman.comparison import Comparison


def compare(
    *runs: Annotated[str, Parameter(help="One run directory, unless --model is given; or the text of a spec.txt.")],
    attacks: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, negative="", help='Such as "DDN()" "Foreign(\'foolbox.DDN(steps=100)\')".'),
    ] = None,
    threat: ThreatOption = None,
    out: Annotated[Path | None, Parameter(help="A directory for results, page and outcome of every image.")] = None,
    subject: Subject = Subject(),  # noqa: B008 (frozen)
    as_json: JsonOption = False,
) -> None:
    """Compare attacks, ours and other libraries', on one classifier and the same images.

    Within a limit they are sorted by what they leave right; without one, such as L2(inf), each looks for its nearest
    successes, and they are sorted by optimality: 1 for one that is nowhere further than the best of all.
    """
    from steelman.cli.results import trust_lines
    from steelman.stats import Share

    facts = _measured(_asked(runs, attacks or [], threat, subject), subject, out)
    if as_json:
        say_json(facts)
        return
    say(f"{facts['model']} within {facts['threat']}, {facts['n']} images of {facts['data']} ({facts['split']})")
    say(*(f"note     {note}" for note in facts["notes"]))
    say(f"natural  {Share.from_json(facts['natural'])}")
    say_table(*_table(facts))
    say(*(f"failed   {one['attack']}: {one['error']}" for one in facts["attacks"] if one["error"]))
    say(f"of the strongest attack, {facts['attacks'][0]['attack']}:", *trust_lines(facts["trust"]))
    if out is not None:
        say(str(out))


def _asked(runs: tuple[str, ...], attacks: list[str], threat: str | None, subject: Subject) -> "Comparison":
    """What the words ask for: a spec, or its parts."""
    from steelman.cli import inputs
    from steelman.comparison import Comparison
    from steelman.errors import UsageError
    from steelman.spec import parse

    if len(runs) == 1 and inputs.is_spec(runs[0], "comparison"):
        inputs.alone("comparison", subject, attacks=attacks, threat=threat)
        return parse(runs[0], "comparison")
    if not attacks:
        raise UsageError('--attacks names none. Expected one or more, such as --attacks "FGSM()" "PGD()".')
    parsed = tuple(parse(attack, "attack") for attack in attacks)
    return Comparison(parsed, inputs.measurement(runs, attacks[0], threat, subject))


def _measured(comparison: "Comparison", subject: Subject, out: Path | None) -> dict[str, Any]:
    """The table; with a directory kept there, with a page and the outcomes, and computed at most once."""
    import dataclasses

    from steelman.cli import pages, results
    from steelman.cli.bar import reporting
    from steelman.comparison import compare as compute
    from steelman.comparison import comparison_page, record, strongest
    from steelman.runs import DISK_SPACE, Run

    with reporting() as progress:
        prepared = results.ready(comparison.measurement, subject, progress)
        if out is None:
            rows = compute(comparison, prepared, progress)
            return record(comparison, prepared, rows, strongest(rows, prepared, progress))
        asked = dataclasses.replace(comparison.measurement, data=prepared.source)
        comparison = dataclasses.replace(comparison, measurement=asked)
        need = DISK_SPACE + 5 * prepared.data.images.numel() * len(comparison.attacks)
        command = rerun(["steelman", "compare", repr(comparison)], **subject.place(), out=out)
        with Run.open(out, repr(comparison), prepared.digest, command=command, need=need) as run:
            told = run.finished and "trust" in run.read_json("comparison")  # comparisons of before say nothing of it
            if not told:
                rows = compute(comparison, prepared, progress, run.path / "examples")
                facts = record(comparison, prepared, rows, strongest(rows, prepared, progress))
                pages.keep(run, comparison_page(facts, rows, command))
                run.write_json("comparison", facts)
                if not any(row.error for row in rows):  # what failed is tried again
                    run.finish()
            return run.read_json("comparison")


def _table(facts: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One row an attack: what it left right within a limit, else its successes and how near they are."""
    from steelman.comparison import distance_cell, rank_text
    from steelman.stats import Share

    found = ["success", "median distance", "optimality"] if facts["unlimited"] else ["robust"]
    columns = ["rank", "attack", *found, "forwards", "backwards", "seconds"]
    rows: list[list[str]] = []
    for one in facts["attacks"]:
        if one["error"]:
            rows.append(["", one["attack"], "failed", *[""] * (len(columns) - 3)])
            continue
        share = str(Share.from_json(one["success" if facts["unlimited"] else "robust"]))
        near = [_number(distance_cell(one), "{:.4g}"), _number(one["optimality"], "{:.3f}")]
        costs = [f"{one[name]:g}" for name in ("forwards", "backwards", "seconds")]
        rows.append([rank_text(one), one["attack"], share, *(near if facts["unlimited"] else []), *costs])
    return columns, rows


def _number(value: float | str | None, form: str) -> str:
    return "" if value is None else value if isinstance(value, str) else form.format(value)
