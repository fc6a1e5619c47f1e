"""The page of the report, and the table of all epochs as CSV."""

import csv
import datetime
import io
from typing import TYPE_CHECKING

from steelman.data import Splits
from steelman.page import Page, Section
from steelman.runs import Run, environment
from steelman.studies.finetune import figures, words
from steelman.studies.finetune.front_pages import Front, front_findings, front_section
from steelman.studies.finetune.plan import Plan
from steelman.studies.finetune.words import Arm

if TYPE_CHECKING:
    from steelman.studies.finetune import Finetune


def write_page(
    study: "Finetune",
    plan: Plan,
    run: Run,
    arms: list[Arm],
    fronts: list[Front],
    splits: Splits,
    command: str,
) -> None:
    """Leave `results/page.json`, `results/epochs.csv` and what the figures need."""
    run.write_text("results/epochs.csv", _csv([*arms, *(arm for front in fronts for arm in front.arms)]))
    first = [arm for arm in arms if arm.seed == plan.seeds[0]]
    page = Page(
        title=f"finetune on {splits.test.name.split('/')[0]}, {study.preset}",
        question=study.question,
        headline=words.headline(plan, first),
        findings=(*words.findings(plan, [*first, *_judged(fronts)]), *front_findings(plan, fronts)),
        sections=(
            Section("Every epoch", (words.epoch_text(plan),), tuple(figures.curves(plan, arms))),
            Section(
                "Before and after", (words.table_text(plan),), (figures.table(plan, arms), figures.bars(plan, arms))
            ),
            *front_section(plan, fronts),
            Section("Accuracy over eps", (words.eps_text(plan),), tuple(figures.over_eps(plan, first))),
            Section("Attacked images", (), tuple(figures.sheets(run, first, splits))),
            Section("Can these numbers be trusted?", (), tuple(figures.trust(plan, first))),
        ),
        rerun=command or f'steelman study "{study!r}" --out {run.path}',
        facts=_facts(study, plan, first, splits),
    )
    page.save(run.path / "results" / "page.json")


def _judged(fronts: list[Front]) -> list[Arm]:
    """The arms behind a front end of which FGSM and PGD can say something: no NaN gradients."""
    return [arm for front in fronts if front.architecture.derivative == "smooth" for arm in front.arms]


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
        **_front_facts(plan),
        "machine": f"{env['processor']}, {env['threads']} threads, torch {env['torch']}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def _front_facts(plan: Plan) -> dict[str, str]:
    """What is computed of the networks behind a front end, where there are any."""
    if not plan.tuned and not plan.controls:
        return {}
    scale, first = plan.behind().scale, (*plan.tuned, *plan.controls)[0]
    test = "all" if scale.num_test is None else f"the first {scale.num_test}"
    return {
        "behind a front end": f"{first.simple} simple and {first.complex} complex cells; {scale.epochs} epochs, "
        f"fine-tuning {scale.finetune_epochs}; {test} test images, PGD-40 on {scale.num_pgd}"
    }


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
