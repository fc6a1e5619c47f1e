"""Small report pages of a training and of an evaluation, from what their runs hold."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from steelman.cli.output import rerun
from steelman.measured import Measured
from steelman.measurement import Prepared
from steelman.page import Bars, Cell, Lines, Page, Panel, Role, Samples, Section, Series, Table, Trust
from steelman.runs import Run
from steelman.stats import Share
from steelman.targets import described
from steelman.wording import percent, sentences, share_text

SHEET = 8  # images on a sheet


def keep(run: Run, page: Page) -> None:
    """Write a page into its run."""
    run.write_json("page", dataclasses.asdict(page))


def keep_training_page(run: Run) -> dict[str, Any]:
    """What came out of a finished training, as plain data; its page is written where it is missing."""
    history, natural, about = (run.read_json(name) for name in ("history", "natural", "model"))
    facts = {
        "run": str(run.path),
        "spec": run.spec_text,
        "command": run.command or rerun(["steelman", "train", run.spec_text], out=run.path),
        "natural": natural,
        "epochs": len(history["rows"]) - 1,
        "best_epoch": history["best_epoch"],
        "stopped_early": history["stopped_early"],
        "weights_epoch": int(run.read_metadata("weights.safetensors")["epoch"]),
        "guard": guard_words(history["rows"], len(about["classes"])),
        "notes": about.get("notes", []),
    }
    if not run.has("results/page.json"):
        keep(run, training_page(facts, history["rows"], about))
    return facts


def training_lines(facts: dict[str, Any]) -> list[str]:
    """What `train` prints; the run directory is the last line."""
    return [
        f"natural  {Share.from_json(facts['natural'])}   on test images, with the weights of epoch "
        f"{facts['weights_epoch']} of {facts['epochs']}",
        *([f"guard    {facts['guard']}"] if facts["guard"] else []),
        *(f"note     {note}" for note in facts["notes"]),
        facts["run"],
    ]


def guard_words(rows: list[dict[str, Any]], classes: int) -> str:
    """What a guard saw and did over a training of these epochs; nothing where there was none."""
    seen = [row for row in rows if "robust" in row]
    if not seen:
        return ""
    last = seen[-1]
    guesses = ", no more than a guess gets right" if last["robust"] <= 1 / classes else ""
    end = (
        f"at the end, on val images, {_told(last, 'one_step')} hold against one step, {_told(last, 'robust')} "
        f"against its probe{guesses}."
    )
    back = [(row["epoch"], look) for row in seen for look in row["rollbacks"]]
    if not back:
        return f"The guard saw no collapse; {end}"
    epochs = ", ".join(dict.fromkeys(str(epoch) for epoch, _ in back))
    times = "once" if len(back) == 1 else f"{len(back)} times"
    softer = back[-1][1]["objective"]
    return f"The guard rolled training back {times}, in epoch {epochs}, and went on with {softer}; {end}"


_COURSE = "Bands are the 95 % Clopper-Pearson intervals of shares of the val images."


def training_page(facts: dict[str, Any], rows: list[dict[str, Any]], about: dict[str, Any]) -> Page:
    """The course of a training and its natural accuracy."""
    epochs = tuple(row["epoch"] for row in rows)
    accuracy = _over_epochs("val", "natural", rows, "val_accuracy", "val_n")
    loss = Series("train", "other", epochs, tuple(row["train_loss"] for row in rows))
    columns = ("weights of epoch", "natural accuracy on test", "best on val")
    table = Table(
        "What the run keeps", columns, ((facts["weights_epoch"], facts["natural"], f"epoch {facts['best_epoch']}"),)
    )
    curves = (
        Lines("val-accuracy", "Accuracy on val", "epoch", "accuracy", (Panel("", (accuracy,)),)),
        Lines("train-loss", "Training loss", "epoch", "loss", (Panel("", (loss,)),), percent=False),
    )
    said = (_COURSE,) if accuracy.low else ()
    early = ("It stopped early: val accuracy rose no more.",) if facts["stopped_early"] else ()
    guard = (facts["guard"],) if facts["guard"] else ()
    return Page(
        title=f"Training of {about['architecture']}",
        question="How did the training go, and how good is the network on images it has not seen?",
        headline=f"{Share.from_json(facts['natural'])} of the test images are classified correctly.",
        findings=(*early, *guard, *sentences(facts["notes"])),
        sections=(Section("Result", (), (table,)), Section("Course", said, (*curves, *_guard_lines(rows)))),
        rerun=facts["command"],
        facts={"images": "x".join(str(size) for size in about["shape"]), "classes": ", ".join(about["classes"])},
    )


def _guard_lines(rows: list[dict[str, Any]]) -> tuple[Lines, ...]:
    seen = [row for row in rows if "robust" in row]
    if not seen:
        return ()
    series = (
        _over_epochs("one step", "fgsm", seen, "one_step", "watched"),
        _over_epochs("the guard's probe", "pgd", seen, "robust", "watched"),
    )
    words = "What the guard saw at the end of each epoch: a gap between the two is a collapse"
    return (Lines("guard", words, "epoch", "accuracy", (Panel("", series),)),)


def _over_epochs(label: str, role: Role, rows: list[dict[str, Any]], key: str, n: str) -> Series:
    """A share after each epoch, with its interval where the log says of how many images it is."""
    shares = [_share(row, key, n) for row in rows if n in row]
    ends = (tuple(share.low for share in shares), tuple(share.high for share in shares))
    whole = ends if len(shares) == len(rows) else ((), ())
    return Series(label, role, tuple(row["epoch"] for row in rows), tuple(row[key] for row in rows), *whole)


def _told(row: dict[str, Any], key: str) -> str:
    return share_text(_share(row, key, "watched").to_json()) if "watched" in row else percent(row[key])


def _share(row: dict[str, Any], key: str, n: str) -> Share:
    return Share.counted(round(row[key] * row[n]), row[n])


def evaluation_page(facts: dict[str, Any], panels: Sequence[Trust], command: str) -> Page:
    """Shares of every model, and what can be trusted of them."""
    names = tuple(model["model"] for model in facts["models"])
    columns = ("model", "natural", "robust", "trust", "p against the first")
    rows = tuple(
        (model["model"], model["natural"], model["robust"], model["verdict"], model.get("paired", {}).get("p"))
        for model in facts["models"]
    )
    goal = None if facts["target"] is None else described(facts["target"])
    aim = "" if goal is None else f", aimed at {goal}"
    how = "still classified correctly" if goal is None else f"right and not taken for {goal}"
    kept = "accuracy" if goal is None else f"images not taken for {goal}"
    role = {"PGD": "pgd", "FGSM": "fgsm"}.get(facts["attack"].partition("(")[0], "other")
    bars = Bars(
        "shares",
        f"Natural accuracy, and {kept} under {facts['attack']} within {facts['threat']}",
        "accuracy",
        tuple(_bars(key, label, names, facts["models"]) for key, label in (("natural", "natural"), ("robust", role))),
    )
    return Page(
        title=f"Evaluation within {facts['threat']}{aim}",
        question=f"How many images are {how} under {facts['attack']} within {facts['threat']}?",
        headline="; ".join(f"{model['model']}: {Share.from_json(model['robust'])}" for model in facts["models"]),
        findings=sentences(facts["notes"]),
        sections=(
            Section("Result", (), (Table("Shares with their 95 % intervals", columns, rows), bars)),
            *_aside_sections(facts),
            *_curve_sections(facts),
            Section("Can these numbers be trusted?", (), tuple(panels)),
        ),
        rerun=command,
        facts={"data": facts["data"], "split": facts["split"], "images": str(facts["n"])}
        | ({} if goal is None else {"target": goal}),
    )


def _aside_sections(facts: dict[str, Any]) -> tuple[Section, ...]:
    """What stands beside the robust accuracy: of a shield, of repaired gradients, of a random model."""
    rows: list[tuple[Cell, ...]] = []
    for model in facts["models"]:
        name = model["model"]
        if one := model.get("bracket"):
            rows.append((name, f"certified by {one['certifier']}", model["certified"]))
            rows.append((name, f"not broken by {facts['attack']}; the truth lies between", model["robust"]))
        if one := model.get("shield"):
            rows.append((name, "without the shield, same attack", one["undefended"]["robust"]))
            rows.append((name, f"{one['shield']}, static: images made without it", one["static"]))
            rows.append((name, f"{one['shield']}, adaptive: {one['attack']} through it", one["adaptive"]))
        if one := model.get("repaired"):
            rows.append((name, "attacked with finite surrogates for derivatives", one["repaired"]))
            rows.append((name, "under both attacks", one["worst"]))
        if one := model.get("random"):
            for part in ("natural", "robust"):
                rows.append((name, f"{part}, a single answer", one[part]["expected"]))
                rows.append((name, f"{part}, the majority of {one['draws']} answers", one[part]["vote"]))
    if not rows:
        return ()
    table = Table("Shares of the images that are classified correctly", ("model", "how", "accuracy"), tuple(rows))
    return (Section("Beside it", (), (table,)),)


def _curve_sections(facts: dict[str, Any]) -> tuple[Section, ...]:
    """Robust accuracy over eps, and how far the right images hold, where a curve was asked for."""
    models = [model for model in facts["models"] if "curve" in model]
    if not models:
        return ()
    nearest, check, cheap = models[0]["curve"]["attacks"]
    lines = Lines(
        "curve",
        "Robust accuracy over eps with 95 % intervals; at eps 0 the natural accuracy",
        "eps",
        "accuracy",
        (Panel("", tuple(line for model in models for line in _band(model))),),
    )
    names = _intervals([point["eps"] for point in models[0]["curve"]["points"]])
    bars = tuple(_shares(model["model"], "other", names, model["curve"]["radii"]) for model in models)
    radii = Bars("radii", "How far the right images hold: the share whose nearest success lies there", "share", bars)
    shares = list(models[0]["curve"]["quantiles"])
    columns = ("model", *(f"{100 * float(share):g} % within" for share in shares), "gradients", "separate attacks")
    rows = tuple(
        (
            model["model"],
            *(
                "beyond" if model["curve"]["quantiles"][share] is None else model["curve"]["quantiles"][share]
                for share in shares
            ),
            model["curve"]["gradients"],
            model["curve"]["separate"],
        )
        for model in models
    )
    words = (
        f"`{nearest}` looks for each image's nearest success; at each eps what it left is checked by `{check}`, and "
        f"where the nearest success is far by `{cheap}`. Each success counts at all larger eps."
    )
    table = Table("Radii within which shares of the right images break, and gradients", columns, rows)
    return (Section("Over eps", (words,), (lines, radii, table)),)


def _band(model: dict[str, Any]) -> list[Series]:
    """The curve of a model, and where it was asked for the certified one below it: the truth lies between."""
    if "bracket" not in model:
        return [_line(model)]
    points: list[dict[str, Any]] = [{"eps": 0.0, "certified": model["natural"]}, *model["bracket"]["points"]]
    values = {part: tuple(point["certified"][part] for point in points) for part in ("value", "low", "high")}
    eps = tuple(point["eps"] for point in points)
    whole = _line(model)
    label = f"{whole.label}, certified"
    return [whole, Series(label, whole.role, eps, values["value"], values["low"], values["high"], like=whole.label)]


def _line(model: dict[str, Any]) -> Series:
    points: list[dict[str, Any]] = [{"eps": 0.0, "robust": model["natural"]}, *model["curve"]["points"]]
    values = {part: tuple(point["robust"][part] for point in points) for part in ("value", "low", "high")}
    eps = tuple(point["eps"] for point in points)
    return Series(model["model"], "other", eps, values["value"], values["low"], values["high"])


def _intervals(epsilons: list[float]) -> tuple[str, ...]:
    """Names of the ranges between radii."""
    edges = [0.0, *epsilons]
    inner = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
    return (*inner, f"beyond {edges[-1]:.4g}")


def keep_sheet(run: Run, index: int, prepared: Prepared, one: Measured) -> Samples | None:
    """A sheet of the first broken images, written into the run; None when none was broken."""
    outcome, data = one.outcome, prepared.data
    rows = outcome.broken.nonzero().squeeze(1)[:SHEET]
    if len(rows) == 0:
        return None
    file = f"examples/sheet-{index}.safetensors"
    run.write_tensors(file, {"x": data.pixels(rows), "x_adv": outcome.x_adv[rows]})

    def named(labels: Any) -> tuple[str, ...]:
        return tuple(data.classes[int(label)] for label in labels[rows])

    return Samples(
        f"sheet-{index}",
        f"{one.name}: the first images that were broken",
        file,
        named(outcome.y),
        named(outcome.before),
        tuple(outcome.before_confidence[rows].tolist()),
        named(outcome.after),
        tuple(outcome.after_confidence[rows].tolist()),
    )


def with_sheets(page: Page, sheets: Sequence[Samples]) -> Page:
    """The page with a section of images, where there are any."""
    if not sheets:
        return page
    return dataclasses.replace(page, sections=(*page.sections, Section("Images", (), tuple(sheets))))


def _bars(key: str, role: Any, names: tuple[str, ...], models: list[dict[str, Any]]) -> Series:
    return _shares(key, role, names, [model[key] for model in models])


def _shares(label: str, role: Any, names: tuple[str, ...], shares: list[dict[str, Any]]) -> Series:
    values = {part: tuple(share[part] for share in shares) for part in ("value", "low", "high")}
    return Series(label, role, names, values["value"], values["low"], values["high"])
