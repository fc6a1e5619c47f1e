"""The study's figures and tables: curves of every epoch, bars, accuracy over eps, sheets of images, trust panels."""

from typing import Any

from steelman.data import Splits
from steelman.page import Bars, Cell, Check, Item, Lines, Panel, Role, Samples, Series, Table, Trust
from steelman.runs import Run
from steelman.stats import mean_sd
from steelman.studies.finetune.plan import PUBLISHED, PUBLISHED_FRONTS, Plan
from steelman.studies.finetune.words import Arm

MEASURES: tuple[tuple[str, str, Role], ...] = (
    ("natural", "natural", "natural"),
    ("fgsm", "FGSM", "fgsm"),
    ("pgd", "PGD-40", "pgd"),
)


def curves(plan: Plan, arms: list[Arm], stem: str = "epochs") -> list[Item]:
    """The red and blue curves of the original, PGD-40 beside them; one grid an arm, a panel a network."""
    grids: list[Item] = []
    for attack in plan.against:
        mine = [arm for arm in arms if arm.attack == attack and arm.seed == plan.seeds[0]]
        panels = tuple(Panel(arm.model, tuple(_curve(arm, plan))) for arm in mine)
        against = type(attack).__name__
        seeds = "" if len(plan.seeds) == 1 else f" (seed {plan.seeds[0]}; all seeds are in results/epochs.csv)"
        caption = f"Fine-tuning on {against} images: test accuracy before it (0) and after each epoch{seeds}."
        grids.append(Lines(f"{stem}-{against}", caption, "fine-tuning epoch", "accuracy", panels))
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


def table(plan: Plan, arms: list[Arm]) -> Table:
    """Every network before and after each arm, the published figure behind the measured one."""
    columns = ("network", "fine-tuned on", "measure", "measured here")
    many = len(plan.seeds) > 1
    rows: list[tuple[Cell, ...]] = []
    for arm in [one for one in arms if one.seed == plan.seeds[0]]:
        twins = [one for one in arms if (one.model, one.attack) == (arm.model, arm.attack)]
        for when, label, key in _table_rows(plan):
            if when == "before" and arm.attack != plan.against[0]:
                continue
            shares = [getattr(one, when)[key] for one in twins]
            on = arm.against if when == "after" else "not yet"
            over_seeds = (_spread([share["value"] for share in shares]),) if many else ()
            rows.append((arm.model, on, label, shares[0], *over_seeds, _published(arm, when, key)))
    extra = (f"mean ± sd, {len(plan.seeds)} seeds",) if many else ()
    columns = (*columns, *extra, "published, MNIST")
    return Table("Before and after fine-tuning, on the test images.", columns, tuple(rows))


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
    if key not in ("natural", "fgsm_images") or (when == "after" and arm.against != "FGSM"):
        return None
    return published(arm.model, when, key)


def published(model: str, when: str, key: str) -> Cell:
    """The original's figure for a network, `when` "before" or "after", `key` "natural" or "fgsm_images"."""
    row = {**PUBLISHED, **PUBLISHED_FRONTS}.get(model)
    if row is None:
        return None
    value = {
        ("before", "natural"): row.natural_before,
        ("before", "fgsm_images"): row.fgsm_before,
        ("after", "natural"): row.natural_after,
        ("after", "fgsm_images"): row.fgsm_after,
    }[when, key]
    return None if value is None else f"{value:.2f} %"


def bars(plan: Plan, arms: list[Arm], stem: str = "before") -> Bars:
    """Before fine-tuning: natural, FGSM and PGD-40 accuracy, a group a network."""
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
    return Bars(stem, f"Before fine-tuning, at eps {plan.threat.eps:g}.", "accuracy", series)


def over_eps(plan: Plan, first: list[Arm]) -> list[Item]:
    """Robust accuracy over the radius, before and after, a grid an arm."""
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


def sheets(run: Run, first: list[Arm], splits: Splits) -> list[Item]:
    """Original, perturbation and FGSM image of each class, before and after."""
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


def trust(plan: Plan, first: list[Arm]) -> list[Item]:
    """A trust panel for each network before and after each arm."""
    items: list[Item] = []
    for arm in first:
        states = [(f"after fine-tuning on {arm.against} images", arm.after)]
        if arm.attack == plan.against[0]:
            states.insert(0, ("before fine-tuning", arm.before))
        for words, found in states:
            checks = tuple(Check(**check) for check in found["trust"]["checks"])
            items.append(Trust(f"{arm.model} {words}, FGSM within {plan.threat!r}", checks))
    return items


def _spread(values: list[float]) -> dict[str, Any]:
    mean, sd = mean_sd(values)
    return {"mean": mean, "sd": sd, "n": len(values), "percent": True}
