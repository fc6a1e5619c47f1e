"""What the study says: headline, findings, and the sections of the page."""

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from steelman.data import Splits
from steelman.defences.worst_group import WorstGroup
from steelman.page import Check, Item, Page, Section, Table, Trust
from steelman.runs import Run, environment
from steelman.stats import mean_sd
from steelman.studies.features.figures import blind_grid, class_grid, histogram, residual_histogram, strips
from steelman.studies.features.plan import GROUPS, PUBLISHED, Plan
from steelman.wording import p_text, percent, share_text

if TYPE_CHECKING:
    from steelman.page import Cell
    from steelman.studies.features import Features
    from steelman.studies.features.collect import Reconstructed

LABELS = {
    "original": "original images",
    "robust": "robust features",
    "nonrobust": "non-robust features",
    "robust-denoised": "robust, denoised",
    "nonrobust-denoised": "non-robust, denoised",
    "d-rand": "D_rand",
    "d-det": "D_det",
}


@dataclass(frozen=True)
class Measured:
    """Everything that was measured; shares as in `results/`."""

    groups: tuple[dict[str, dict[str, Any]], ...]  # a seed each: by network
    held_out: dict[str, dict[str, Any]]  # of the first seed, by network
    attacked: dict[str, dict[str, Any]]
    retrained: dict[str, tuple[dict[str, Any], ...]]  # by set, a seed each
    blind: tuple[dict[str, Any], ...]  # a class each
    distances: dict[str, Tensor]


def write_page(
    study: "Features", plan: Plan, run: Run, found: Measured, made: "Reconstructed", splits: Splits, command: str
) -> None:
    """Leave `results/page.json` and what its figures need."""
    pictures = strips(run, plan, splits)
    page = Page(
        title=f"features on {splits.test.name.split('/')[0]}, {study.preset}",
        question=study.question,
        headline=headline(found),
        findings=findings(found, made),
        sections=(
            Section("Groups of perturbations", (_group_text(plan),), (_group_table(plan, found), pictures[0])),
            Section("Other perturbations, and gradients", (_HELD_TEXT,), (_held_table(plan, found), pictures[1])),
            Section("Reconstructed features", (_residual_text(plan),), _reconstruction_items(run, made)),
            Section(
                "Learning from features", _retrain_text(plan, found), (_retrain_table(plan, found), _files_table(found))
            ),
            Section("Distances", (_DISTANCE_TEXT,), _distance_items(found)),
            Section("Can the two be told apart blindly?", (_BLIND_TEXT,), _blind_items(run, found)),
            Section("Can these numbers be trusted?", (), _trust(plan, found)),
        ),
        rerun=command or f'steelman study "{study!r}" --out {run.path}',
        facts=_facts(study, plan, made, splits),
    )
    page.save(run.path / "results" / "page.json")


def headline(found: Measured) -> str:
    """The answer in one sentence: what retraining on each kind of features keeps of clean accuracy."""
    clean = {name: rows[0]["shares"][-1] for name, rows in found.retrained.items()}
    worst = {name: rows["worst"] for name, rows in found.groups[0].items()}
    return (
        f"Under the worst of five perturbations the standard net keeps {share_text(worst['standard'])}, the robust "
        f"one {share_text(worst['robust'])}; a net that learns only from robust features gets "
        f"{share_text(clean['robust'])} clean images right, from non-robust ones {share_text(clean['nonrobust'])}."
    )


def findings(found: Measured, made: "Reconstructed") -> tuple[str, ...]:
    """What the numbers say, in plain words."""
    words: list[str] = []
    for name, rows in found.groups[0].items():
        values = [share["value"] for share in rows["shares"]]
        order = " < ".join(str(number + 1) for number in sorted(range(len(values)), key=values.__getitem__))
        words.append(
            f"The {name} net's groups in order of accuracy: {order}; worst of all: {share_text(rows['worst'])}. "
            f"Vertical against horizontal lines on the same images: McNemar {p_text(rows['p'])}."
        )
    for name, hits in found.attacked.items():
        words.append(
            f"The {name} net under gradients: FGSM leaves {share_text(hits['FGSM'])}, PGD-40 "
            f"{share_text(hits['PGD-40'])}, Reliable {share_text(hits['Reliable'])}."
        )
    for name, inverted in made.found.items():
        words.append(
            f"Matching the {'robust' if name == 'robust' else 'standard'} net's features left a median relative "
            f"error of {float(inverted.relative.median()):.3g}, with {float(inverted.gradients.float().mean()):.0f} "
            f"gradients an image ({len(inverted.x)} images)."
        )
    return (*words, *_retraining_findings(found), _blind_finding(found))


def _retraining_findings(found: Measured) -> list[str]:
    words: list[str] = []
    for name, rows in found.retrained.items():
        clean, worst = _over_seeds([row["shares"][-1] for row in rows]), _over_seeds([row["worst"] for row in rows])
        words.append(f"Learned from {LABELS[name]}: {clean} clean, {worst} under the worst group.")
    return words


def _over_seeds(shares: list[dict[str, Any]]) -> str:
    """The share of one seed with its interval, the mean of several with its deviation."""
    if len(shares) == 1:
        return share_text(shares[0])
    mean, sd = mean_sd([share["value"] for share in shares])
    return f"{percent(mean)} (sd {100 * sd:.1f}, {len(shares)} seeds, n = {shares[0]['n']})"


def _blind_finding(found: Measured) -> str:
    if not found.blind:
        return "Too few images of every class for a blind classifier."
    shares = [row["accuracy"]["value"] for row in found.blind]
    above = sum(row["accuracy"]["low"] > 0.5 for row in found.blind)
    return (
        f"A small net told robust from non-robust features of the same class with {percent(mean_sd(shares)[0])} mean "
        f"accuracy; for {above} of {len(shares)} classes beyond chance (95 % interval above 50 %)."
    )


def _group_table(plan: Plan, found: Measured) -> Table:
    names = _member_names(plan)
    columns = ("group", *(f"{net}, {what}" for net in ("standard", "robust") for what in ("published", "measured")))
    seeds = len(plan.seeds)
    extra = (f"standard, {seeds} seeds", f"robust, {seeds} seeds") if seeds > 1 else ()
    rows: list[tuple[Cell, ...]] = []
    for number, name in enumerate((*names, "worst of all")):
        cells: list[Cell] = [name]
        for net in ("standard", "robust"):
            cells += [_published(net, number), _entry(found.groups[0][net], number)]
        if seeds > 1:
            cells += [
                _spread([_entry(one[net], number)["value"] for one in found.groups]) for net in ("standard", "robust")
            ]
        rows.append(tuple(cells))
    return Table("Accuracy under each perturbation, test images.", (*columns, *extra), tuple(rows))


def _held_table(plan: Plan, found: Measured) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (repr(member), *(found.held_out[net]["shares"][number] for net in ("standard", "robust")))
        for number, member in enumerate(plan.held_out.members)
    ]
    rows += [
        (f"{attack} within {plan.threat!r}", *(found.attacked[net][attack] for net in ("standard", "robust")))
        for attack in ("FGSM", "PGD-40", "Reliable")
    ]
    return Table("Accuracy under other perturbations and attacks.", ("perturbation", "standard", "robust"), tuple(rows))


def _retrain_text(plan: Plan, found: Measured) -> tuple[str, ...]:
    chosen = "" if plan.published else " Of its epochs the best on real val images is kept."
    text = f"Equal budgets: the same number of images, epochs and the same recipe for every set.{chosen}"
    return (text, _MISLABELLED_TEXT) if "d-rand" in found.retrained else (text,)


def _retrain_table(plan: Plan, found: Measured) -> Table:
    names = _member_names(plan)
    columns = ("learned from", *(name.removesuffix(" lines") for name in names), "worst")
    rows: list[tuple[Cell, ...]] = []
    for name, trials in found.retrained.items():
        label = LABELS[name]
        if label in PUBLISHED:
            rows.append((f"{label}, published", *(_published(label, number) for number in range(len(names))), None))
        numbers = range(len(names) + 1)
        rows.append((label, *(_entry(trials[0], number) for number in numbers)))
        if len(trials) > 1:
            spreads = (_spread([_entry(one, number)["value"] for one in trials]) for number in numbers)
            rows.append((f"{label}, mean ± sd of {len(trials)} seeds", *spreads))
    return Table("Networks that learned from one set only, on real test images.", columns, tuple(rows))


def _files_table(found: Measured) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (LABELS[name], f"sets/{name}.safetensors", f"sets/{name}/x_CLASS.npy, y.npy") for name in found.retrained
    ]
    caption = "Where the sets are: train on one with `steelman train FC100 --data FILE`."
    return Table(caption, ("set", "arrays", "per class"), tuple(rows))


def _reconstruction_items(run: Run, made: "Reconstructed") -> tuple[Item, ...]:
    return (residual_histogram(made), class_grid(run, made))


def _distance_items(found: Measured) -> tuple[Item, ...]:
    items: list[Item] = []
    for prefix, words in (("to original", "to the original image"), ("pairs", "between two images of the set")):
        samples = {
            LABELS[name.removeprefix(prefix).strip()]: values
            for name, values in found.distances.items()
            if name.startswith(prefix)
        }
        items.append(
            histogram(f"distance-{prefix.replace(' ', '-')}", f"L2 distances {words}.", "L2 distance", samples)
        )
    return tuple(items)


def _blind_items(run: Run, found: Measured) -> tuple[Item, ...]:
    rows: list[tuple[Cell, ...]] = [(row["class"], row["accuracy"], max(row["relative"])) for row in found.blind]
    columns = ("class", "accuracy", "largest relative error of its inversion")
    table = Table("A net for each class: robust or non-robust? Chance is 50 %.", columns, tuple(rows))
    return (table, blind_grid(run, [row["label"] for row in found.blind])) if rows else (table,)


def _trust(plan: Plan, found: Measured) -> tuple[Item, ...]:
    return tuple(
        Trust(f"{name} net under PGD-40 within {plan.threat!r}", tuple(Check(**one) for one in hits["trust"]["checks"]))
        for name, hits in found.attacked.items()
    )


def _facts(study: "Features", plan: Plan, made: "Reconstructed", splits: Splits) -> dict[str, str]:
    env, scale = environment(), plan.scale
    used = len(splits.train) if scale.num_train is None else min(scale.num_train, len(splits.train))
    num_test = len(splits.test.first(scale.num_test))
    return {
        "data": f"{splits.test.name}, {used} images to train, {num_test} to test",
        "reconstructed": f"{len(made.originals)} training images, start: {plan.start}",
        "inversion": f"{plan.inversion!r} at {plan.layer or 'the last ReLU'}, tolerance {plan.tolerance:g}",
        "groups": repr(plan.groups),
        "robust training": repr(plan.objective),
        "seeds": ", ".join(map(str, plan.seeds)),
        "preset and scale": f"{study.preset}, {study.scale}",
        "machine": f"{env['processor']}, {env['threads']} threads, torch {env['torch']}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def _member_names(plan: Plan) -> tuple[str, ...]:
    return tuple(f"{number + 1} {name}" for number, name in enumerate(GROUPS[: len(plan.groups.members)]))


def _entry(rows: dict[str, Any], number: int) -> dict[str, Any]:
    """The share of one group; of the worst one after the last."""
    return rows["shares"][number] if number < len(rows["shares"]) else rows["worst"]


def _published(key: str, number: int) -> str | None:
    values = PUBLISHED[key]
    return f"{100 * values[number]:.1f} %" if number < len(values) else None


def _spread(values: list[float]) -> dict[str, Any]:
    mean, sd = mean_sd(values)
    return {"mean": mean, "sd": sd, "n": len(values), "percent": True}


def _residual_text(plan: Plan) -> str:
    return (
        "Each training image's features under the robust net (“robust features”) and under the standard net "
        f"(“non-robust”) are matched from another image by {plan.inversion!r}. The relative error is the distance to "
        "the wanted features over their length."
    )


def _group_text(plan: Plan) -> str:
    worst = isinstance(plan.objective, WorstGroup)
    by = "the worst of these five perturbations for each image" if worst else repr(plan.objective)
    return f"“Robust” means: trained on {by}. Published figures are one run on MNIST."


_HELD_TEXT = "Robustness measured only on what was trained says little: other corruptions, and gradient attacks."
_MISLABELLED_TEXT = (
    "In D_rand and D_det (Ilyas et al. 2019) the labels fit only what a targeted attack has put into the images, so "
    "clean accuracy above chance is learned from perturbations; in D_det the label seen is always the next class."
)
_DISTANCE_TEXT = "Pixels of originals and reconstructions are both in [0, 1]; a pair is two different images of a set."
_BLIND_TEXT = (
    "Robust and non-robust features of an image are in the same split. The figure shows for each class what the "
    "net saw, and then what it needs to see: its own features matched from noise."
)
