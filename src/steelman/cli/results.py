"""What `attack` and `evaluate` print and keep."""

import dataclasses
from pathlib import Path
from typing import Any

from steelman.cli import inputs, pages
from steelman.cli.bar import reporting
from steelman.cli.options import Subject
from steelman.cli.output import rerun
from steelman.data import Data
from steelman.evaluate import Outcome
from steelman.export import INDEX, export, is_lossy, share_lost
from steelman.measured import Measured, measure, record
from steelman.measurement import Measurement, Prepared, prepare
from steelman.progress import Progress
from steelman.runs import DISK_SPACE, Run
from steelman.stats import Share
from steelman.targets import described


def measured(asked: Measurement, subject: Subject) -> tuple[list[Outcome], dict[str, Any]]:
    """The outcome of every model, and all shares and verdicts as plain data."""
    _, found, facts = struck(asked, subject)
    return [one.outcome for one in found], facts


def struck(asked: Measurement, subject: Subject) -> tuple[Prepared, list[Measured], dict[str, Any]]:
    """The same with the images, and with all that came out of each model."""
    with reporting() as progress:
        prepared = ready(asked, subject, progress)
        found = measure(prepared, progress)
    return prepared, found, record(prepared, found)


def exported(outcome: Outcome, data: Data, path: Path) -> tuple[str, str]:
    """Write the images; where they went, and a warning where rounding to 8 bits undid some, else no words."""
    export(outcome, data.pixels(), path)
    lost = share_lost(outcome)
    if not is_lossy(path) or not lost.n or not lost.value:
        return str(path), ""
    words = f"{100 * lost.value:.1f} % of the {lost.n} broken images are not broken as 8-bit PNG"
    return str(path), f"{words}: see the column survives of {path / INDEX}. Export to .npz to keep them as they are."


def kept(asked: Measurement, subject: Subject, out: Path, *, warned: bool = False) -> dict[str, Any]:
    """The same from a run directory, where it is computed at most once; `warned` of the threat already, or not.

    Raises:
        RunError: the directory is in use, holds something else, or cannot be written; too little disk space.
    """
    with reporting() as progress:
        prepared = ready(asked, subject, progress, warned=warned)
        asked = dataclasses.replace(asked, data=prepared.source)
        command = rerun(["steelman", "evaluate", repr(asked)], **subject.place(), out=out)
        outcomes = len(prepared.subjects) * (3 if asked.shield else 1)
        need = DISK_SPACE + 5 * prepared.data.images.numel() * outcomes
        with Run.open(out, repr(asked), prepared.digest, command=command, need=need) as run:
            if not run.finished:
                _keep(run, prepared, measure(prepared, progress, run), command)
            return run.read_json("evaluation")


def flat(facts: dict[str, Any]) -> dict[str, Any]:
    """With a single model its shares at the top level, else a list under `models`."""
    if len(facts["models"]) > 1:
        return facts
    return {**{name: value for name, value in facts.items() if name != "models"}, **facts["models"][0]}


def head(facts: dict[str, Any]) -> list[str]:
    """What was measured, and what a reader must know of the images."""
    aim = _aim(facts)
    words = (
        f"{facts['attack']} within {facts['threat']}{aim}, {facts['n']} images of {facts['data']} ({facts['split']})"
    )
    return [words, *(f"note     {note}" for note in facts["notes"])]


def lines(facts: dict[str, Any]) -> list[str]:
    """Both shares of a single model and what can be trusted."""
    model = facts["models"][0]
    natural, robust = (str(Share.from_json(model[name])) for name in ("natural", "robust"))
    width = max(len(text.partition(" ")[0]) for text in (natural, robust))
    shares = [
        f"{name:<8} {value.rjust(width)} {rest}"
        for name, (value, _, rest) in (("natural", natural.partition(" ")), ("robust", robust.partition(" ")))
    ]
    aim = _aim(facts)
    shares[1] += f"   under {facts['attack']} within {facts['threat']}{aim}"
    notes = [f"note     {note}" for note in facts["notes"]]
    saved = [f"{name:<8} {facts[name]}" for name in ("saved", "exported") if name in facts]
    return [*shares, *asides(facts), *trust_lines(model["trust"]), *notes, *saved]


def asides(facts: dict[str, Any]) -> list[str]:
    """What stands beside the robust accuracy: of a shield, of repaired gradients, of a random model."""
    found: list[str] = []
    for model in facts["models"]:
        if one := model.get("bracket"):
            share = str(Share.from_json(model["certified"]))
            whose = f", {model['model']}" if len(facts["models"]) > 1 else ""
            found.append(f"proven   {share}   by {one['certifier']}{whose}: certified <= true <= robust")
        whose = f" of {model['model']}" if len(facts["models"]) > 1 else ""
        if one := model.get("shield"):
            static, adaptive, bare = (
                str(Share.from_json(share)) for share in (one["static"], one["adaptive"], one["undefended"]["robust"])
            )
            found.append(f"shield   {one['shield']}{whose}: the shares above are those of the defended model")
            found.append(f"static   {static}   images made for the undefended model, on which {bare} hold")
            found.append(f"adaptive {adaptive}   {one['attack']} through the shield, and the static images")
            if alone := one.get("search"):  # evaluations of before tested both together
                words = f"the search through the shield alone, p = {one['p']:.2g} against static"
                found.append(f"search   {Share.from_json(alone)}   {words}")
        if one := model.get("repaired"):
            again, worst = (str(Share.from_json(one[name])) for name in ("repaired", "worst"))
            found.append(f"repaired {again}{whose}   with finite surrogates; {worst} under both")
        if one := model.get("random"):
            for name in ("natural", "robust"):
                vote, expected = (str(Share.from_json(one[name][way])) for way in ("vote", "expected"))
                found.append(f"random   {name}{whose}: {expected} of single answers, {vote} by vote of {one['draws']}")
    return found


def table(facts: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One row a model."""
    columns = ["model", "natural", "robust", "p against the first", "trust"]
    rows: list[list[str]] = []
    for model in facts["models"]:
        shares = [str(Share.from_json(model[name])) for name in ("natural", "robust")]
        p = f"{model['paired']['p']:.2g}" if "paired" in model else ""
        rows.append([model["model"], *shares, p, verdict(model["trust"])])
    return columns, rows


def curve_head(facts: dict[str, Any]) -> str:
    """What a curve stands on."""
    nearest, check, cheap = facts["models"][0]["curve"]["attacks"]
    return f"curve    robust accuracy over eps: {nearest}, checked by {check} where it is near and by {cheap} elsewhere"


def curve_table(facts: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One row an eps, one column a model and one for what is certified of it; below how far the right images hold."""
    columns, by_column, radii = ["eps"], [], []
    for model in facts["models"]:
        columns.append(model["model"])
        by_column.append([str(Share.from_json(point["robust"])) for point in model["curve"]["points"]])
        radii.append(model["curve"]["quantiles"])
        if "bracket" in model:
            columns.append("certified" if len(facts["models"]) == 1 else f"{model['model']}, certified")
            by_column.append([str(Share.from_json(point["certified"])) for point in model["bracket"]["points"]])
            radii.append(None)
    eps = [f"{point['eps']:.4g}" for point in facts["models"][0]["curve"]["points"]]
    rows = [list(row) for row in zip(eps, *by_column, strict=True)]
    for share in radii[0]:
        name = "median radius" if share == "0.5" else f"{100 * float(share):g} % within"
        rows.append([name, *("" if one is None else _radius(one[share]) for one in radii)])
    return columns, rows


def _radius(radius: float | None) -> str:
    return "beyond" if radius is None else f"{radius:.4g}"


def curve_cost(facts: dict[str, Any]) -> list[str]:
    """What each curve cost, beside an attack at each eps."""
    found: list[str] = []
    for model in facts["models"]:
        one, num = model["curve"], len(model["curve"]["points"])
        beside = f"; {num} separate attacks take up to {one['separate']:,}" if one["separate"] else ""
        found.append(f"cost     {model['model']}: {one['gradients']:,} gradients{beside}")
    return found


def verdict(checks: list[dict[str, Any]]) -> str:
    """The worst verdict of a panel and the checks that gave it."""
    for worst in ("fail", "warn"):
        if names := [check["name"] for check in checks if check["verdict"] == worst]:
            return f"{worst}: {', '.join(names)}"
    return "ok"


def _aim(facts: dict[str, Any]) -> str:
    return "" if facts["target"] is None else f", aimed at {described(facts['target'])}"


def trust_lines(checks: list[dict[str, Any]]) -> list[str]:
    """What is wrong first, each check in a line; what is in order by name."""
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


def ready(asked: Measurement, subject: Subject, progress: Progress, *, warned: bool = False) -> Prepared:
    """Everything that a measurement needs, and, unless there was one, a warning of a threat that allows any image."""
    prepared = prepare(asked, subject.data_root, progress, device=inputs.device(subject.device))
    if not warned:
        inputs.warn_of_threat(asked.ball, prepared.data.shape)
    return prepared


def _keep(run: Run, prepared: Prepared, found: list[Measured], command: str) -> None:
    facts = record(prepared, found)
    for index, one in enumerate(found):
        if not run.has(f"examples/outcome-{index}.json"):
            one.outcome.save(run.path / "examples" / f"outcome-{index}")
        if one.curve is not None:
            rows = {"right": one.curve.right, "distance": one.curve.distance}
            run.write_tensors(f"examples/curve-{index}.safetensors", rows)
    page = pages.evaluation_page(facts, [one.trust for one in found], command)
    sheets = [pages.keep_sheet(run, index, prepared, one) for index, one in enumerate(found)]
    pages.keep(run, pages.with_sheets(page, [sheet for sheet in sheets if sheet is not None]))
    run.write_json("evaluation", facts)
    run.finish()
