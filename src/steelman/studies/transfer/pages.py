"""What the study says: the page of the report, and the table of all epochs as CSV."""

import datetime
from typing import TYPE_CHECKING, Any

from steelman.data import Splits
from steelman.page import Cell, Check, Grid, Item, Lines, Page, Panel, Section, Series, Table, Trust
from steelman.runs import Run, environment
from steelman.stats import Share, mean_sd
from steelman.studies.transfer import radius, shape_pages
from steelman.studies.transfer.epochs import per_epoch, scatter, write_csv
from steelman.studies.transfer.matrix import matrix_of
from steelman.studies.transfer.plan import PUBLISHED, Arm, Plan, part_name
from steelman.studies.transfer.words import findings, headline
from steelman.train import Training

if TYPE_CHECKING:
    from steelman.studies.transfer import Transfer

MEASURES = (("natural", "natural"), ("fgsm", "FGSM, own"), ("of_a", "FGSM of A"), ("pgd", "PGD, own"))


def write_page(study: "Transfer", plan: Plan, run: Run, splits: Splits, command: str) -> None:
    """Leave `results/page.json` and `results/epochs.csv`."""
    rows = per_epoch(run, plan, len(splits.val))
    write_csv(run, rows)
    found = {arm.name: _found(run, plan, arm) for arm in plan.arms}
    eps_words, eps_tables = radius.told(run, plan)
    labels = splits.test.first(plan.scale.num_test).labels
    guess = int(labels.bincount().max()) / len(labels)
    page = Page(
        title=f"transfer to {splits.test.name.removesuffix(' test')}, {study.preset}",
        question=study.question,
        headline=headline(run, plan, found, guess),
        findings=(*findings(run, plan, found, guess), *shape_pages.findings(run)),
        sections=(
            Section("Accuracy over the number of copied blocks", _scatter_text(plan), (scatter(plan, rows),)),
            Section("Natural and adversarial accuracy", _table_text(plan), (_table(plan, found),)),
            Section("What an attack takes away", _drop_text(plan), (*_drops(run, plan), _drop_table(plan, found))),
            Section("From whom to whom", _matrix_text(plan), tuple(_matrices(run))),
            *_also_sections(run, plan),
            *shape_pages.sections(run, plan),
            Section("The choice of eps", eps_words, (*eps_tables, _strip(run, plan))),
            Section("Can these numbers be trusted?", _trust_text(plan), tuple(_trust(plan, found))),
        ),
        rerun=command or f'steelman study "{study!r}" --out {run.path}',
        facts={**_facts(study, plan, splits), **shape_pages.facts(run, plan)},
    )
    page.save(run.path / "results" / "page.json")


def _found(run: Run, plan: Plan, arm: Arm) -> list[dict[str, Any]]:
    """What was measured of an arm, one entry a seed."""
    return [run.read_json(part_name(arm, seed)) for seed in plan.seeds]


def _table(plan: Plan, found: dict[str, list[dict[str, Any]]]) -> Table:
    rows = tuple((arm.name, *(found[arm.name][0][key] for key, _ in MEASURES)) for arm in plan.arms)
    caption = (
        "Accuracy on B's test images, first seed. Under an attack an image counts when it is right before and after. "
        "PGD is judged on fewer images."
    )
    return Table(caption, ("network", *(label for _, label in MEASURES)), rows)


def _drop_table(plan: Plan, found: dict[str, list[dict[str, Any]]]) -> Table:
    """What is lost in points and relatively, and beside it what the original reported and how seeds differ."""
    many = len(plan.seeds) > 1
    columns = ["network", "drop, own FGSM", "relative drop", "standard error, FGSM of A"]
    columns += [f"{label}, mean ± sd of {len(plan.seeds)} seeds" for label in ("natural", "FGSM")] if many else []
    columns += ["published natural", "published adversarial"] if _comparable(plan) else []
    rows: list[tuple[Cell, ...]] = []
    for arm in plan.arms:
        first = found[arm.name][0]
        natural, attacked = first["natural"]["value"], first["fgsm"]["value"]
        relative = f"{100 * (1 - attacked / natural):.1f} %" if natural else "undefined"
        row: list[Cell] = [arm.name, f"{100 * (natural - attacked):.1f} points", relative, _error(first["of_a"])]
        row += [_spread(found[arm.name], key) for key in ("natural", "fgsm")] if many else []
        row += _published(arm) if _comparable(plan) else []
        rows.append(tuple(row))
    return Table("What each network's own FGSM takes away, first seed.", tuple(columns), tuple(rows))


def _drops(run: Run, plan: Plan) -> list[Item]:
    """Absolute and relative drop of all treatments on the same axes, under each network's own FGSM and under A's."""
    items: list[Item] = []
    for key, words in (("fgsm", "each network's own FGSM"), ("of_a", "FGSM images made on A")):
        panels = tuple(
            Panel(title, tuple(_drop(run, plan, name, key, relative=relative) for name in _treatments(plan)))
            for title, relative in (("share of all images lost", False), ("share of the right images lost", True))
        )
        caption = f"What {words} take away at eps {plan.threat.eps:g}, with 95 % intervals; 0 blocks is base B."
        items.append(Lines(f"drop-{key}", caption, "blocks copied", "accuracy lost", panels))
    return items


def _drop(run: Run, plan: Plan, treatment: str, key: str, *, relative: bool) -> Series:
    arms = [arm for arm in plan.arms if arm.treatment == treatment]
    shares: list[Share] = []
    for arm in arms:
        masks = run.read_tensors(f"examples/{part_name(arm, plan.seeds[0])}-images.safetensors")
        lost = masks["natural"] & ~masks[key]
        shares.append(Share.of(lost[masks["natural"]] if relative else lost))
    ends = [share.to_json() for share in shares]
    x = tuple(arm.blocks for arm in arms)
    return Series(treatment, "other", x, *(tuple(one[end] for one in ends) for end in ("value", "low", "high")))


def _treatments(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(arm.treatment for arm in plan.arms))


def _matrices(run: Run) -> list[Item]:
    return [matrix_of(raw) for raw in run.read_json("matrix")]


def _also_sections(run: Run, plan: Plan) -> tuple[Section, ...]:
    """Accuracy on further sets, such as kinds of rendition, one column each."""
    raw: dict[str, dict[str, Any]] = {name: row for name, row in run.read_json("also").items() if row}
    if not raw:
        return ()
    rows = tuple((arm.name, *(raw[name][arm.name] for name in raw)) for arm in plan.arms)
    caption = "Natural accuracy on the test images of further sets, first seed."
    return (Section("Other kinds of image", (), (Table(caption, ("network", *raw), rows),)),)


def _strip(run: Run, plan: Plan) -> Grid:
    raw = run.read_json("strip")
    caption = (
        f"FGSM on {plan.reference}, which stands for A, over eps, on images of {', '.join(raw['true'])}: what it sees "
        "in them, and how sure it is."
    )
    heads = tuple(raw["heads"])
    return Grid("strip", caption, "examples/strip.safetensors", len(heads), tuple(raw["words"]), heads)


def _trust(plan: Plan, found: dict[str, list[dict[str, Any]]]) -> list[Item]:
    panels: list[Item] = []
    for arm in plan.arms:
        raw = found[arm.name][0]["trust"]
        panels.append(Trust(raw["subject"], tuple(Check(**check) for check in raw["checks"])))
    return panels


def _facts(study: "Transfer", plan: Plan, splits: Splits) -> dict[str, str]:
    env, train = environment(), splits.train.first(plan.scale.num_train)
    a = f"trained here on {plan.a.data!r}" if isinstance(plan.a, Training) else f"pretrained {plan.network!r}"
    return {
        "network": repr(plan.network),
        "A": a,
        "B": f"{splits.test.name.removesuffix(' test')}: {len(train)} images to train, {len(splits.val)} to choose, "
        f"{len(splits.test.first(plan.scale.num_test))} to test, {'x'.join(map(str, splits.test.shape))}",
        "notes": "; ".join(splits.train.notes) or "none",
        "above the copied blocks": "a random draw" if plan.init == "random" else "A's weights, in base B too",
        "training": f"{plan.epochs} epochs, lr {plan.lr:g}"
        + (", for AnB+ half of them with RMSprop at a tenth of it" if plan.published else ""),
        "threat": repr(plan.threat),
        "seeds": ", ".join(map(str, plan.seeds)),
        "preset and scale": f"{study.preset}, {study.scale}",
        "machine": f"{env['processor']}, {env['threads']} threads, torch {env['torch']}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def _scatter_text(plan: Plan) -> tuple[str, ...]:
    words = "AnB: n blocks copied from A and frozen. AnB+: copied, and all learn. BnB and BnB+: the same from base B, "
    words += "the controls for co-adapted layers. Above the copied blocks "
    words += "all is drawn at random." if plan.init == "random" else "stand A's weights as well, also in base B."
    return (words,)


def _table_text(plan: Plan) -> tuple[str, ...]:
    return (
        f"“FGSM, own” is white-box. “FGSM of A” are images made once on {plan.reference}, A's blocks under a linear "
        "layer that knows B's classes: the original attacked every network with such images, and a network that shares "
        "more with A meets a better fitted attack.",
    )


def _drop_text(plan: Plan) -> tuple[str, ...]:
    words = ["A relative drop flatters a network that was often right before: both drops are shown on the same axes."]
    if _comparable(plan):
        words.append(
            "Published: 6,000 images of ImageNet-R, attacked on A, accuracy on all attacked images, one run. The "
            "standard error of 26 % of 6,000 images is 0.57 points."
        )
    return tuple(words)


def _matrix_text(plan: Plan) -> tuple[str, ...]:
    return (f"{plan.scale.num_matrix} test images at most; wrong originals are attacked too, since others get them.",)


def _trust_text(plan: Plan) -> tuple[str, ...]:
    return (f"{', '.join(arm.name for arm in plan.probed)} with all checks, the others with those that cost nothing.",)


def _comparable(plan: Plan) -> bool:
    return type(plan.network).__name__ == "MobileNetV2"


def _published(arm: Arm) -> list[Cell]:
    row = PUBLISHED.get(arm.name)
    if row is None:
        return [None, None]
    return [f"{row.natural:.2f} %", None if row.adversarial is None else f"{row.adversarial:.2f} %"]


def _error(share: dict[str, Any]) -> str:
    value = share["value"]
    return f"{100 * (value * (1 - value) / share['n']) ** 0.5:.2f} points"


def _spread(found: list[dict[str, Any]], key: str) -> dict[str, Any]:
    mean, sd = mean_sd([one[key]["value"] for one in found])
    return {"mean": mean, "sd": sd, "n": len(found), "percent": True}
