"""What the study says: the page of the report, and the table of all epochs as CSV."""

import csv
import datetime
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelman.attacks import Attack
from steelman.attacks.fgsm import FGSM
from steelman.data import Splits
from steelman.page import Bars, Cell, Check, Item, Lines, Page, Panel, Role, Samples, Section, Series, Table, Trust
from steelman.runs import Run, environment
from steelman.stats import mean_sd
from steelman.studies.finetune.plan import PUBLISHED, Plan

if TYPE_CHECKING:
    from steelman.studies.finetune import Finetune

MEASURES: tuple[tuple[str, str, Role], ...] = (
    ("natural", "natural", "natural"),
    ("fgsm", "FGSM", "fgsm"),
    ("pgd", "PGD-40", "pgd"),
)


@dataclass(frozen=True)
class Arm:
    """One network, fine-tuned against one attack: every epoch's row, and the full measures before and after."""

    model: str
    seed: int
    attack: Attack
    rows: tuple[dict[str, Any], ...]
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def name(self) -> str:
        """The stem of this arm's files."""
        return f"{self.model}-{self.seed}-{type(self.attack).__name__}"

    @property
    def against(self) -> str:
        """The attack it was fine-tuned against, in a word."""
        return type(self.attack).__name__


def write_page(study: "Finetune", plan: Plan, run: Run, arms: list[Arm], splits: Splits, command: str) -> None:
    """Leave `results/page.json`, `results/epochs.csv` and what the figures need."""
    run.write_text("results/epochs.csv", _csv(arms))
    first = [arm for arm in arms if arm.seed == plan.seeds[0]]
    page = Page(
        title=f"finetune on {splits.test.name.split('/')[0]}, {study.preset}",
        question=study.question,
        headline=_headline(plan, first),
        findings=_findings(plan, first),
        sections=(
            Section("Every epoch", (_epoch_text(plan),), tuple(_curves(plan, arms))),
            Section("Before and after", (_table_text(plan),), (_table(plan, arms), _bars(plan, arms))),
            Section("Accuracy over eps", (_eps_text(plan),), tuple(_over_eps(plan, first))),
            Section("Attacked images", (), tuple(_sheets(run, first, splits))),
            Section("Can these numbers be trusted?", (), tuple(_trust(plan, first))),
        ),
        rerun=command or f'steelman study "{study!r}" --out {run.path}',
        facts=_facts(study, plan, first, splits),
    )
    page.save(run.path / "results" / "page.json")


def _headline(plan: Plan, first: list[Arm]) -> str:
    arm = next(one for one in first if one.against == "FGSM") if _has_fgsm(first) else first[0]
    after = arm.after
    said = f"After fine-tuning {arm.model} on {arm.against} images, "
    fgsm, pgd = _percent(after["fgsm"]), _percent(after["pgd"])
    if _learned_the_attack(arm):
        return f"{said}{fgsm} hold against FGSM but only {pgd} against PGD-40: it learned the attack, not the task."
    return f"{said}{fgsm} hold against FGSM and {pgd} against PGD-40, at eps {plan.threat.eps:g}."


def _findings(plan: Plan, first: list[Arm]) -> tuple[str, ...]:
    words: list[str] = []
    for arm in first:
        before, after = arm.before, arm.after
        if arm is next(one for one in first if one.model == arm.model):
            words.append(
                f"{arm.model} before fine-tuning: {_share(before['natural'])} of the test images are right; "
                f"FGSM at eps {plan.threat.eps:g} leaves {_share(before['fgsm'])}, PGD-40 {_share(before['pgd'])}."
            )
        verdict = _verdict(arm)
        words.append(
            f"{arm.model} after {len(arm.rows) - 1} epochs on {arm.against} images: natural "
            f"{_percent(after['natural'])}, FGSM {_percent(after['fgsm'])}, PGD-40 {_percent(after['pgd'])}: {verdict} "
            f"(same images, McNemar {_p(after['p']['pgd'])})."
        )
        if after["fgsm_images"]["value"] > after["natural"]["value"] and after["p"]["leak"] < 0.01:
            words.append(
                f"{arm.model} is right on {_percent(after['fgsm_images'])} of the FGSM images but on "
                f"{_percent(after['natural'])} of the originals ({_p(after['p']['leak'])}): the attack's pattern "
                "tells it the label. Counted as published, this looks like robustness."
            )
    return tuple(words)


def _verdict(arm: Arm) -> str:
    fgsm, pgd = arm.after["fgsm"]["value"], arm.after["pgd"]["value"]
    if max(fgsm, pgd) < 0.1:
        return "it did not learn to hold"
    if _learned_the_attack(arm):
        return "it learned the attack, not the task"
    if fgsm - pgd > 0.05 and arm.after["p"]["pgd"] < 0.01:
        return "it holds in part, and FGSM shows too much"
    return "it holds against both alike"


def _learned_the_attack(arm: Arm) -> bool:
    """Fine-tuned on one step, and PGD-40 breaks much more than FGSM, beyond chance."""
    after = arm.after
    one_step = isinstance(arm.attack, FGSM)
    return one_step and after["fgsm"]["value"] - after["pgd"]["value"] > 0.1 and after["p"]["pgd"] < 0.01


def _curves(plan: Plan, arms: list[Arm]) -> list[Item]:
    """The red and blue curves of the original, PGD-40 beside them; one grid an arm, a panel a network."""
    grids: list[Item] = []
    for attack in plan.against:
        mine = [arm for arm in arms if arm.attack == attack and arm.seed == plan.seeds[0]]
        panels = tuple(Panel(arm.model, tuple(_curve(arm, plan))) for arm in mine)
        against = type(attack).__name__
        seeds = "" if len(plan.seeds) == 1 else f" (seed {plan.seeds[0]}; all seeds are in results/epochs.csv)"
        caption = f"Fine-tuning on {against} images: test accuracy before it (0) and after each epoch{seeds}."
        grids.append(Lines(f"epochs-{against}", caption, "fine-tuning epoch", "accuracy", panels))
    return grids


def _curve(arm: Arm, plan: Plan) -> list[Series]:
    measures = [*MEASURES]
    if plan.published:  # the blue curve as the original counted it
        measures[1] = ("fgsm_images", "FGSM, as published", "fgsm")
    x = tuple(row["epoch"] for row in arm.rows)
    return [
        Series(
            label,
            role,
            x,
            *(tuple(row[key][end] for row in arm.rows) for end in ("value", "low", "high")),
        )
        for key, label, role in measures
    ]


def _table(plan: Plan, arms: list[Arm]) -> Table:
    columns = ("network", "fine-tuned on", "measure", "published, MNIST", "measured here")
    many = len(plan.seeds) > 1
    rows: list[tuple[Cell, ...]] = []
    for arm in [one for one in arms if one.seed == plan.seeds[0]]:
        twins = [one for one in arms if (one.model, one.attack) == (arm.model, arm.attack)]
        for when, label, key in _table_rows(plan):
            if when == "before" and arm.attack != plan.against[0]:
                continue
            shares = [getattr(one, when)[key] for one in twins]
            on = arm.against if when == "after" else "not yet"
            row = (arm.model, on, label, _published(arm, when, key), shares[0])
            rows.append((*row, _spread([share["value"] for share in shares])) if many else row)
    extra = (f"mean ± sd, {len(plan.seeds)} seeds",) if many else ()
    return Table("Before and after fine-tuning, on the test images.", (*columns, *extra), tuple(rows))


def _table_rows(plan: Plan) -> list[tuple[str, str, str]]:
    fgsm = f"FGSM {plan.threat.eps:g}"
    kinds = [
        ("natural", "natural"),
        (f"{fgsm}, as published", "fgsm_images"),
        (f"{fgsm}, robust", "fgsm"),
        (f"PGD-40 {plan.threat.eps:g}, robust", "pgd"),
    ]
    return [(when, label, key) for when in ("before", "after") for label, key in kinds]


def _published(arm: Arm, when: str, key: str) -> Cell:
    row = PUBLISHED.get(arm.model)
    if row is None or key not in ("natural", "fgsm_images") or (when == "after" and arm.against != "FGSM"):
        return None
    value = {
        ("before", "natural"): row.natural_before,
        ("before", "fgsm_images"): row.fgsm_before,
        ("after", "natural"): row.natural_after,
        ("after", "fgsm_images"): row.fgsm_after,
    }[when, key]
    return f"{value:.2f} %"


def _bars(plan: Plan, arms: list[Arm]) -> Bars:
    first = [arm for arm in arms if arm.seed == plan.seeds[0] and arm.attack == plan.against[0]]
    series = tuple(
        Series(
            label,
            role,
            tuple(arm.model for arm in first),
            *(tuple(arm.before[key][end] for arm in first) for end in ("value", "low", "high")),
        )
        for key, label, role in MEASURES
    )
    return Bars("before", f"Before fine-tuning, at eps {plan.threat.eps:g}.", "accuracy", series)


def _over_eps(plan: Plan, first: list[Arm]) -> list[Item]:
    items: list[Item] = []
    for attack in plan.against:
        panels: list[Panel] = []
        for arm in [one for one in first if one.attack == attack]:
            for when, found in (("before", arm.before), ("after", arm.after)):
                panels.append(Panel(f"{arm.model}, {when}", _eps_series(plan, found)))
        against = type(attack).__name__
        caption = f"Robust accuracy over eps, before and after fine-tuning on {against} images."
        items.append(Lines(f"eps-{against}", caption, "eps", "robust accuracy", tuple(panels)))
    return items


def _eps_series(plan: Plan, found: dict[str, Any]) -> tuple[Series, ...]:
    start = found["natural"]
    return tuple(
        Series(
            name,
            role,
            (0.0, *plan.eps_list),
            *((start[end], *(share[end] for share in found["curve"][name])) for end in ("value", "low", "high")),
        )
        for _, name, role in MEASURES[1:]
    )


def _sheets(run: Run, first: list[Arm], splits: Splits) -> list[Item]:
    items: list[Item] = []
    seen: set[str] = set()
    for arm in first:
        stems = [(f"{arm.name}-after", f"{arm.model} after fine-tuning on {arm.against} images")]
        if arm.model not in seen:
            stems.insert(0, (f"{arm.model}-{arm.seed}-before", f"{arm.model} before fine-tuning"))
            seen.add(arm.model)
        for stem, words in stems:
            file = f"examples/{stem}-samples.safetensors"
            tensors = run.read_tensors(file)
            named = {key: _classes(tensors[key].tolist(), splits) for key in ("label", "before", "after")}
            confidence = {key: tuple(tensors[f"{key}_confidence"].tolist()) for key in ("before", "after")}
            items.append(
                Samples(
                    f"samples-{stem}",
                    f"{words}: the first test image of each class, and its FGSM image.",
                    file,
                    named["label"],
                    named["before"],
                    confidence["before"],
                    named["after"],
                    confidence["after"],
                )
            )
    return items


def _classes(labels: list[int], splits: Splits) -> tuple[str, ...]:
    return tuple(splits.test.classes[label] for label in labels)


def _trust(plan: Plan, first: list[Arm]) -> list[Item]:
    items: list[Item] = []
    for arm in first:
        states = [(f"after fine-tuning on {arm.against} images", arm.after)]
        if arm.attack == plan.against[0]:
            states.insert(0, ("before fine-tuning", arm.before))
        for words, found in states:
            checks = tuple(Check(**check) for check in found["trust"]["checks"])
            items.append(Trust(f"{arm.model} {words}, FGSM within {plan.threat!r}", checks))
    return items


def _facts(study: "Finetune", plan: Plan, first: list[Arm], splits: Splits) -> dict[str, str]:
    scale, env = plan.scale, environment()
    used = len(splits.train) if scale.num_train is None else min(scale.num_train, len(splits.train))
    after = first[0].after["natural"]["n"]
    rows = first[0].rows[0]
    return {
        "data": f"{splits.test.name}, {used} images to train, {after} to test",
        "every epoch": f"natural and FGSM on {rows['natural']['n']} test images, PGD-40 on {rows['pgd']['n']}",
        "threat": repr(plan.threat),
        "seeds": ", ".join(map(str, plan.seeds)),
        "preset and scale": f"{study.preset}, {study.scale}",
        "training": f"{scale.epochs} epochs; fine-tuning {scale.finetune_epochs} epochs, "
        f"{100 * plan.mix:g} % of each batch attacked",
        "machine": f"{env['processor']}, {env['threads']} threads, torch {env['torch']}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def _epoch_text(plan: Plan) -> str:
    text = "Point 0 is the network before fine-tuning. Bands are 95 % Clopper-Pearson intervals."
    if plan.published:
        text += (
            " As published, FGSM counts every attacked image, those that were wrong before included; images may leave "
            "[0, 1]; BatchNorm and dropout are off in training; a new optimiser starts each epoch."
        )
    return text


def _table_text(plan: Plan) -> str:
    return (
        "“As published” is the accuracy on all attacked images; “robust” counts an image only when it was right before "
        f"and is right after. Published figures are one run on MNIST at eps 0.35; here eps is {plan.threat.eps:g}."
    )


def _eps_text(plan: Plan) -> str:
    return f"At each eps the attack starts anew; {plan.scale.num_pgd} test images at most."


def _csv(arms: list[Arm]) -> str:
    """Long form: a line for each network, seed, arm and epoch."""
    shares = ("natural", "fgsm_images", "fgsm", "pgd")
    plain = ("train_loss", "val_accuracy", "lr", "gradient_nan", "gradient_zero", "pixels_moved")
    ends = ("value", "low", "high", "n")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("model", "seed", "against", "epoch", *(f"{s}_{e}" for s in shares for e in ends), *plain))
    for arm in arms:
        for row in arm.rows:
            cells = [row[share][end] for share in shares for end in ends]
            writer.writerow((arm.model, arm.seed, arm.against, row["epoch"], *cells, *(row[key] for key in plain)))
    return text.getvalue()


def _has_fgsm(first: list[Arm]) -> bool:
    return any(arm.against == "FGSM" for arm in first)


def _spread(values: list[float]) -> dict[str, Any]:
    mean, sd = mean_sd(values)
    return {"mean": mean, "sd": sd, "n": len(values), "percent": True}


def _percent(share: dict[str, Any]) -> str:
    return f"{100 * share['value']:.1f} %"


def _share(share: dict[str, Any]) -> str:
    return f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}] of {share['n']}"


def _p(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
