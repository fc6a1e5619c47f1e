"""What `attack` and `evaluate` print and keep."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from steelman.cli import inputs, pages
from steelman.cli.bar import reporting
from steelman.cli.options import Subject
from steelman.evaluate import Outcome
from steelman.measurement import Measured, Measurement, Prepared, measure, prepare, record
from steelman.progress import Progress
from steelman.runs import DISK_SPACE, Run
from steelman.stats import Share


def measured(asked: Measurement, subject: Subject) -> tuple[list[Outcome], dict[str, Any]]:
    """The outcome of every model, and all shares and verdicts as plain data."""
    with reporting() as progress:
        prepared = _prepared(asked, subject, progress)
        found = measure(prepared, progress)
    return [one.outcome for one in found], record(prepared, found)


def kept(asked: Measurement, subject: Subject, out: Path) -> dict[str, Any]:
    """The same from a run directory, where it is computed at most once.

    Raises:
        RunError: the directory is in use, holds something else, or cannot be written; too little disk space.
    """
    with reporting() as progress:
        prepared = _prepared(asked, subject, progress)
        asked = dataclasses.replace(asked, data=prepared.source)
        command = shlex.join(["steelman", "evaluate", repr(asked), "--out", str(out)])
        need = DISK_SPACE + 5 * prepared.data.images.numel() * len(prepared.subjects)
        with Run.open(out, repr(asked), prepared.digest, command=command, need=need) as run:
            if not run.finished:
                _keep(run, prepared, measure(prepared, progress), command)
            return run.read_json("evaluation")


def flat(facts: dict[str, Any]) -> dict[str, Any]:
    """With a single model its shares at the top level, else a list under `models`."""
    if len(facts["models"]) > 1:
        return facts
    return {**{name: value for name, value in facts.items() if name != "models"}, **facts["models"][0]}


def head(facts: dict[str, Any]) -> list[str]:
    """What was measured, and what a reader must know of the images."""
    aim = "" if facts["target"] is None else f", aimed at class {facts['target']}"
    words = (
        f"{facts['attack']} within {facts['threat']}{aim}, {facts['n']} images of {facts['data']} ({facts['split']})"
    )
    return [words, *(f"note     {note}" for note in facts["notes"])]


def lines(facts: dict[str, Any]) -> list[str]:
    """Both shares of a single model and what can be trusted."""
    model = facts["models"][0]
    natural, robust = (str(Share(**model[name])) for name in ("natural", "robust"))
    width = max(len(text.partition(" ")[0]) for text in (natural, robust))
    shares = [
        f"{name:<8} {value.rjust(width)} {rest}"
        for name, (value, _, rest) in (("natural", natural.partition(" ")), ("robust", robust.partition(" ")))
    ]
    aim = "" if facts["target"] is None else f", aimed at class {facts['target']}"
    shares[1] += f"   under {facts['attack']} within {facts['threat']}{aim}"
    notes = [f"note     {note}" for note in facts["notes"]]
    saved = [f"saved    {facts['saved']}"] if "saved" in facts else []
    return [*shares, *_trust_lines(model["trust"]), *notes, *saved]


def table(facts: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One row a model."""
    columns = ["model", "natural", "robust", "p against the first", "trust"]
    rows: list[list[str]] = []
    for model in facts["models"]:
        shares = [str(Share(**model[name])) for name in ("natural", "robust")]
        p = f"{model['paired']['p']:.2g}" if "paired" in model else ""
        rows.append([model["model"], *shares, p, verdict(model["trust"])])
    return columns, rows


def verdict(checks: list[dict[str, Any]]) -> str:
    """The worst verdict of a panel and the checks that gave it."""
    for worst in ("fail", "warn"):
        if names := [check["name"] for check in checks if check["verdict"] == worst]:
            return f"{worst}: {', '.join(names)}"
    return "ok"


def _trust_lines(checks: list[dict[str, Any]]) -> list[str]:
    found = [
        f"{check['verdict']}: {check['name']} – {check['words']}" + (f" {check['remedy']}" if check["remedy"] else "")
        for worst in ("fail", "warn", "info")
        for check in checks
        if check["verdict"] == worst
    ]
    fine = [check["name"] for check in checks if check["verdict"] == "ok"]
    if fine:
        found.append(f"ok: {', '.join(fine)}")
    return [f"{'' if index else 'trust':<8} {words}" for index, words in enumerate(found)]


def _prepared(asked: Measurement, subject: Subject, progress: Progress) -> Prepared:
    prepared = prepare(asked, subject.data_root, progress, device=inputs.device(subject.device))
    inputs.warn_of_threat(asked.threat, prepared.data.shape)
    return prepared


def _keep(run: Run, prepared: Prepared, found: list[Measured], command: str) -> None:
    facts = record(prepared, found)
    for index, one in enumerate(found):
        one.outcome.save(run.path / "examples" / f"outcome-{index}")
    page = pages.evaluation_page(facts, [one.trust for one in found], command)
    sheets = [pages.keep_sheet(run, index, prepared, one) for index, one in enumerate(found)]
    pages.keep(run, pages.with_sheets(page, [sheet for sheet in sheets if sheet is not None]))
    run.write_json("evaluation", facts)
    run.finish()
