"""A crossing as a value: adversarial images made on each of several classifiers, and judged on every other.

Szegedy et al. 2014 (arXiv:1312.6199, section 4.2) and Papernot et al. 2016 (arXiv:1605.07277) show such a matrix.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from steelman.attacks import Attack
from steelman.engine import generator_for
from steelman.errors import UsageError
from steelman.evaluate import Outcome, accuracy, strike
from steelman.measurement import Measurement, Prepared, check_plain
from steelman.page import Check, Matrix, Page, Section, Trust
from steelman.progress import Progress, Stages, silent
from steelman.runs import Run
from steelman.spec import Spec
from steelman.studies.transfer.matrix import AdversarialSet, craft, fits, judged, matrices, matrix_of
from steelman.trust import examine
from steelman.wording import percent, sentences, share_text

SAMPLE = 32  # images that the trust checks of each classifier look at


@dataclass(frozen=True, repr=False)
class Crossing(Spec):
    """Which classifiers and images, which attacks on each of them, and which sets made earlier.

    Raises:
        UsageError: an attack or a run given twice, too little to compare, or what an evaluation alone answers.
    """

    measurement: Measurement
    attacks: tuple[Attack, ...] = ()
    sets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_plain(self.measurement, "a crossing")
        models = self.measurement.models
        if len(models) + len(self.sets) < 2:
            raise UsageError(
                f"{len(models)} runs and {len(self.sets)} sets were given. Expected two runs or more, or a run and a "
                "set that attack --save wrote."
            )
        if again := [run for run in models if models.count(run) > 1]:
            raise UsageError(f"{again[0]} was given twice. Name each run once.")
        if twice := [attack for attack in self.attacks if self.attacks.count(attack) > 1]:
            raise UsageError(f"an attack was given twice: {twice[0]!r}. Name each attack once.")


@dataclass(frozen=True, eq=False)
class Crossed:
    """What came out: one matrix an attack, and for each classifier whether its numbers can be trusted."""

    matrices: tuple[Matrix, ...]
    trust: tuple[Trust, ...]


def read_sets(crossing: Crossing, prepared: Prepared) -> list[AdversarialSet]:
    """The sets made earlier.

    Raises:
        UsageError: no such set, one of other images, or one that the threat does not allow.
    """
    threat, data, found = crossing.measurement.ball, prepared.data, list[AdversarialSet]()
    taken = {subject.name for subject in prepared.subjects}
    for text in crossing.sets:
        outcome, stem = Outcome.load(Path(text)), Path(text).name
        name = next(word for word in (stem, f"{stem} (saved)", text) if word not in taken or word == text)
        taken.add(name)
        if outcome.target is not None and len(outcome.target.unique()) == 1:
            raise UsageError(
                f"the set {stem} aimed at one class and left that class's images out, so it is of other images than "
                "those judged here. Save one without --target, or with random, least-likely or next."
            )
        device = data.images.device
        found.append(AdversarialSet(name, repr(outcome.attack), outcome.x_adv.to(device), outcome.y.to(device)))
        fits(found[-1], data, threat)
    return found


def digest(prepared: Prepared, sets: Sequence[AdversarialSet]) -> str:
    """Identity of the images, all weights and the sets."""
    found = hashlib.sha256(prepared.digest.encode())
    for made in sets:
        found.update(made.x_adv.cpu().contiguous().numpy().data)
    return found.hexdigest()


def cross(
    crossing: Crossing,
    prepared: Prepared,
    sets: Sequence[AdversarialSet],
    run: Run | None = None,
    progress: Progress = silent,
) -> Crossed:
    """Attack every image on each classifier, judge all on each, and ask whether the white-box numbers can be trusted.

    With a run the adversarial images are kept there, and those that are there are not made again.
    """
    threat, data, seed = crossing.measurement.ball, prepared.data, crossing.measurement.seed
    models = {subject.name: subject.model for subject in prepared.subjects}
    stages = Stages(progress, len(models) * (len(crossing.attacks) + 1) + 1)
    made = list(sets)
    for name, model in models.items():
        for index, attack in enumerate(crossing.attacks):
            generator, stage = generator_for(data.images, seed), stages.stage(name)
            file, words = f"examples/{name}-{index}.safetensors", {"attack": repr(attack)}
            if run is not None and run.has(file) and run.read_metadata(file) == words:
                kept = {key: tensor.to(data.images.device) for key, tensor in run.read_tensors(file).items()}
                made.append(AdversarialSet(name, repr(attack), kept["x_adv"], kept["y"]))
                continue
            made.append(craft(name, model, data, attack, threat, generator=generator, progress=stage))
            if run is not None:
                run.write_tensors(file, {"x_adv": made[-1].x_adv, "y": made[-1].y}, metadata=words)
    found = judged(models, data, made, stages.stage("judging"))
    natural = {name: accuracy(model, data) for name, model in models.items()}
    panels: list[Trust] = []
    for name, model in models.items():
        stage = stages.stage("trust")
        own = {attack: int(found[repr(attack), name, name].sum()) for attack in crossing.attacks}
        attack = min(own, key=own.__getitem__) if own else crossing.measurement.attack
        outcome = strike(model, data, attack, threat, generator=generator_for(data.images, seed), progress=stage)
        asked = "" if crossing.attacks else ", struck anew: saved images say nothing of gradients"
        subject = f"{attack!r} on {name} within {threat!r}{asked}"
        panels.append(examine(model, data, outcome, subject=subject, sample=SAMPLE))
    return Crossed(matrices(natural, found, threat), tuple(panels))


def record(crossing: Crossing, prepared: Prepared, crossed: Crossed) -> dict[str, Any]:
    """Everything as plain data."""
    return {
        "threat": repr(crossing.measurement.threat),
        "data": repr(prepared.source),
        "split": crossing.measurement.split,
        "n": len(prepared.data),
        "notes": list(prepared.notes),
        "matrices": [asdict(item) for item in crossed.matrices],
        "trust": [asdict(panel) for panel in crossed.trust],
    }


def crossing_page(facts: dict[str, Any], crossed: Crossed, command: str) -> Page:
    """The page of a recorded crossing."""
    return Page(
        title=f"Transfer of attacks within {facts['threat']}",
        question="How many images hold against adversarial images that were made on another network?",
        headline=headline(crossed.matrices),
        findings=(*(finding(item) for item in crossed.matrices), *sentences(facts["notes"])),
        sections=(
            Section("From whom to whom", (), crossed.matrices),
            Section(
                "Can these numbers be trusted?", (_TRUST_TEXT,) if len(crossed.matrices) > 1 else (), crossed.trust
            ),
        ),
        rerun=command,
        facts={"data": facts["data"], "split": facts["split"], "images": str(facts["n"])},
    )


_TRUST_TEXT = "Asked of the strongest attack on each network by itself; the other attacks have no verdict of their own."


def headline(items: Sequence[Matrix]) -> str:
    """The pair of different networks of which an attack carries over best: that of the largest fall."""
    cells = [(cell, item, source, target) for item in items for cell, source, target in _foreign(item)]
    pairs = [found for found in cells if found[2] in found[1].columns]  # of a saved set the network is unknown
    if not cells:
        return "Every image was judged by the network that it was made on."
    falls = [_natural(item, target)["value"] - cell["value"] for cell, item, _, target in pairs or cells]
    cell, item, source, target = (pairs or cells)[falls.index(max(falls))]
    tied = " (and others as well)" if falls.count(max(falls)) > 1 else ""
    does = f"{_attack(item)} carries over best, from" if pairs else f"Of saved images those of {_attack(item)} do most,"
    before = share_text(_natural(item, target))
    return f"{does} {source} to {target}{tied}: {before} are right without attack, {share_text(cell)} under it."


def finding(item: Matrix) -> str:
    """What an attack leaves on the network it was made on, and on others."""
    own = [cell["value"] for cell, source, target in _cells(item) if source == target]
    other = [cell["value"] for cell, source, _ in _foreign(item) if source in item.columns]
    saved = [cell["value"] for cell, source, _ in _cells(item) if source not in item.columns]
    words = [f"{_range(own)} hold on the network that they were made on"] if own else []
    words += [f"{_range(other)} on another"] if other else []
    words += [f"{_range(saved)} hold against saved images, made up to each one's first success only"] if saved else []
    num = _natural(item, item.columns[0])["n"]
    return f"{_attack(item)}, of {num} images: {', '.join(words)}."


def recorded(facts: dict[str, Any]) -> tuple[Matrix, ...]:
    """The matrices of what `record` gave."""
    return tuple(matrix_of(raw) for raw in facts["matrices"])


def verdicts(facts: dict[str, Any]) -> tuple[Trust, ...]:
    """The trust panels of what `record` gave."""
    return tuple(Trust(raw["subject"], tuple(Check(**check) for check in raw["checks"])) for raw in facts["trust"])


def with_source(crossing: Crossing, prepared: Prepared) -> Crossing:
    """The same crossing, its data said in full."""
    return replace(crossing, measurement=replace(crossing.measurement, data=prepared.source))


def _cells(item: Matrix) -> list[tuple[Any, str, str]]:
    rows = list(zip(item.rows, item.cells, strict=True))[1:]  # without that of no attack
    return [(cell, row, name) for row, cells in rows for name, cell in zip(item.columns, cells, strict=True)]


def _foreign(item: Matrix) -> list[tuple[Any, str, str]]:
    return [found for found in _cells(item) if found[1] != found[2]]


def _natural(item: Matrix, target: str) -> dict[str, Any]:
    cell: Any = item.cells[0][item.columns.index(target)]
    return cell


def _attack(item: Matrix) -> str:
    return item.caption.removeprefix("Images still right under ").partition(" within ")[0]


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return percent(low) if low == high else f"{100 * low:.1f} to {percent(high)}"
