"""What `transfer-matrix` computes, prints and keeps."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelman.attacks import Attack
from steelman.cli import inputs, pages, results
from steelman.cli.bar import reporting
from steelman.cli.options import Subject
from steelman.engine import generator_for
from steelman.errors import UsageError
from steelman.evaluate import Outcome, accuracy, strike
from steelman.measurement import Measurement, Prepared
from steelman.page import Matrix, Page, Section, Trust
from steelman.progress import Progress, Stages
from steelman.runs import DISK_SPACE, Run
from steelman.spec import Spec, parse
from steelman.studies.transfer.matrix import AdversarialSet, craft, fits, judged, matrices, matrix_of
from steelman.threats import Ball
from steelman.trust import examine

SAMPLE = 32  # images that the trust checks of each classifier look at


@dataclass(frozen=True, repr=False)
class Crossing(Spec):
    """Which classifiers and images, which attacks on each of them, and which sets made earlier."""

    measurement: Measurement
    attacks: tuple[Attack, ...]
    sets: tuple[str, ...]


def asked(
    runs: tuple[str, ...], attacks: tuple[str, ...], threat: str | None, subject: Subject, sets: tuple[Path, ...],
    *, own: bool,
) -> Crossing:  # fmt: skip
    """What the options ask for.

    Raises:
        UsageError: fewer than two classifiers without a set, or an attack given twice.
    """
    if len(runs) + len(sets) < 2 or not runs:
        raise UsageError(
            f"{len(runs)} runs and {len(sets)} sets were given. Expected two runs or more, or a run and a set that "
            "attack --save wrote."
        )
    parsed = tuple(parse(text, "attack") for text in attacks)
    if len(set(parsed)) < len(parsed):
        raise UsageError(f"an attack was given twice in {', '.join(map(repr, parsed))}. Name each attack once.")
    measurement = inputs.measurement(runs, attacks[0], threat, subject)
    return Crossing(measurement, parsed if own else (), tuple(str(path.expanduser().resolve()) for path in sets))


def crossed(what: Crossing, subject: Subject, out: Path | None, command: str) -> tuple[dict[str, Any], list[Matrix]]:
    """All matrices as plain data and as page items; with a directory kept there and computed at most once."""
    with reporting() as progress:
        prepared = results.ready(what.measurement, subject, progress)
        if out is None:
            return _facts(what, prepared, *_computed(what, prepared, None, progress))
        with Run.open(out, repr(what), prepared.digest, command=command, need=DISK_SPACE) as run:
            if not run.finished:
                items, panels = _computed(what, prepared, run, progress)
                facts, _ = _facts(what, prepared, items, panels)
                run.write_json("matrix", facts)
                pages.keep(run, _page(what, prepared, items, panels, command))
                run.finish()
            facts = run.read_json("matrix")
    return facts, [matrix_of(raw) for raw in facts["matrices"]]


def _computed(
    what: Crossing, prepared: Prepared, run: Run | None, progress: Progress
) -> tuple[list[Matrix], list[Trust]]:
    threat, data = what.measurement.threat, prepared.data
    assert isinstance(threat, Ball)
    models = {subject.name: subject.model for subject in prepared.subjects}
    stages = Stages(progress, len(models) * len(what.attacks) + 2)
    sets = [_read(Path(path)) for path in what.sets]
    for made in sets:
        fits(made, data, threat)
    panels: list[Trust] = []
    for name, model in models.items():
        for index, attack in enumerate(what.attacks):
            generator = generator_for(data.images, what.measurement.seed)
            made = craft(name, model, data, attack, threat, generator=generator, progress=stages.stage(name))
            if run is not None:
                tensors = {"x_adv": made.x_adv, "y": made.y}
                run.write_tensors(f"examples/{name}-{index}.safetensors", tensors, metadata={"attack": made.attack})
            sets.append(made)
    found = judged(models, data, sets, stages.stage("judging"))
    natural = {name: accuracy(model, data) for name, model in models.items()}
    stage = stages.stage("trust")
    for name, model in models.items():
        attack, generator = what.measurement.attack, generator_for(data.images, what.measurement.seed)
        outcome = strike(model, data, attack, threat, generator=generator, progress=stage)
        subject = f"{attack!r} on {name} within {threat!r}"
        panels.append(examine(model, data, outcome, subject=subject, sample=SAMPLE))
    return list(matrices(natural, found, threat)), panels


def _read(path: Path) -> AdversarialSet:
    outcome = Outcome.load(path.with_suffix("") if path.suffix in (".safetensors", ".json") else path)
    return AdversarialSet(path.stem, repr(outcome.attack), outcome.x_adv, outcome.y)


def _facts(
    what: Crossing, prepared: Prepared, items: list[Matrix], panels: list[Trust]
) -> tuple[dict[str, Any], list[Matrix]]:
    facts = {
        "threat": repr(what.measurement.threat),
        "data": repr(prepared.source),
        "n": len(prepared.data),
        "notes": list(prepared.notes),
        "matrices": [dataclasses.asdict(item) for item in items],
        "trust": [dataclasses.asdict(panel) for panel in panels],
    }
    return facts, items


def _page(what: Crossing, prepared: Prepared, items: list[Matrix], panels: list[Trust], command: str) -> Page:
    threat = repr(what.measurement.threat)
    return Page(
        title=f"Transfer of attacks within {threat}",
        question="How many images hold against adversarial images that were made on another network?",
        headline=f"{len(prepared.subjects)} networks, {len(prepared.data)} images, {len(items)} attacks.",
        findings=tuple(prepared.notes),
        sections=(
            Section("From whom to whom", (), tuple(items)),
            Section("Can these numbers be trusted?", (), tuple(panels)),
        ),
        rerun=command,
        facts={"data": repr(prepared.source), "images": str(len(prepared.data))},
    )
