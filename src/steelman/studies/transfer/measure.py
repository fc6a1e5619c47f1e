"""What is measured of one network of the study, of the matrix between networks, and of single images over eps."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from steelman.attacks.fgsm import FGSM
from steelman.data import Data
from steelman.evaluate import Outcome, accuracy, strike
from steelman.page import Trust
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.stats import Share, mcnemar
from steelman.studies.transfer.matrix import AdversarialSet, craft, held, judged, matrices
from steelman.studies.transfer.plan import Arm, Plan, part_name
from steelman.train import load_run
from steelman.trust import examine, read

STRIP = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # multiples of eps that the strip of single images shows
STRIP_IMAGES = 3


def measured(run: Run, plan: Plan, arm: Arm, seed: int, test: Data, *, probed: bool, progress: Progress) -> None:
    """Write `results/<arm>-<seed>.json` and each image's outcome, where they are missing.

    `probed=True` runs all trust checks, else those that the attack itself answers.
    """
    name = part_name(arm, seed)
    if run.has(f"results/{name}.json"):
        return
    model = network(run, arm, seed)
    few = test.first(plan.scale.num_matrix)
    fgsm = strike(model, test, FGSM(), plan.threat, progress=progress)
    pgd = strike(model, few, plan.judge, plan.threat, generator=_generator(), progress=progress)
    of_a = held(model, test, reference_set(run, plan, seed, test))
    masks = {"natural": fgsm.right, "fgsm": fgsm.right & ~fgsm.broken, "of_a": of_a, "pgd": pgd.right & ~pgd.broken}
    run.write_tensors(f"examples/{name}-images.safetensors", masks)
    found: dict[str, Any] = {key: Share.of(mask).to_json() for key, mask in masks.items()}
    found["natural_few"] = Share.of(pgd.right).to_json()
    found["trust"] = dataclasses.asdict(_trust(plan, model, few, pgd, arm, probed=probed))
    run.write_json(name, found)


def network(run: Run, arm: Arm, seed: int) -> nn.Module:
    """The trained network of an arm, in eval mode."""
    return load_run(run.path / "parts" / part_name(arm, seed)).model


def reference_set(run: Run, plan: Plan, seed: int, test: Data) -> AdversarialSet:
    """FGSM images made once on A, as in the original, on which all networks are judged."""
    file = f"examples/A-{seed}-fgsm.safetensors"
    if not run.has(file):
        source = Arm(plan.reference, "AnB", plan.deepest, plan.deepest)
        made = craft("A", network(run, source, seed), test, FGSM(), plan.threat, generator=_generator())
        run.write_tensors(file, {"x_adv": made.x_adv, "y": made.y})
    tensors = run.read_tensors(file)
    return AdversarialSet("A", repr(FGSM()), tensors["x_adv"], tensors["y"])


def across(run: Run, plan: Plan, arms: tuple[Arm, ...], seed: int, test: Data, progress: Progress) -> None:
    """Write `results/matrix.json`: every attack's images from each of these networks, judged on each."""
    if run.has("results/matrix.json"):
        return
    few = test.first(plan.scale.num_matrix)
    models = {arm.name: network(run, arm, seed) for arm in arms}
    sets: list[AdversarialSet] = []
    for name, model in models.items():
        for index, attack in enumerate(plan.attacks):
            file = f"examples/set-{name}-{index}.safetensors"
            if not run.has(file):
                made = craft(name, model, few, attack, plan.threat, generator=_generator(), progress=progress)
                run.write_tensors(file, {"x_adv": made.x_adv, "y": made.y}, metadata={"attack": repr(attack)})
            tensors = run.read_tensors(file)
            sets.append(AdversarialSet(name, repr(attack), tensors["x_adv"], tensors["y"]))
    natural = {name: accuracy(model, few) for name, model in models.items()}
    items = matrices(natural, judged(models, few, sets, progress), plan.threat)
    run.write_json("matrix", [dataclasses.asdict(item) for item in items])


def elsewhere(run: Run, arms: tuple[Arm, ...], seed: int, sets: Mapping[str, Data]) -> None:
    """Write `results/also.json`: natural accuracy of the networks on further sets, by set and network."""
    if run.has("results/also.json"):
        return
    found: dict[str, dict[str, Any]] = {name: {} for name in sets}
    for arm in arms if sets else ():
        model = network(run, arm, seed)
        for name, data in sets.items():
            found[name][arm.name] = Share.of(accuracy(model, data)).to_json()
    run.write_json("also", found)


def strip(run: Run, plan: Plan, seed: int, test: Data) -> None:
    """Write `examples/strip.safetensors` and its words: some images under FGSM on A over eps, label and confidence."""
    if run.has("results/strip.json"):
        return
    model = network(run, Arm(plan.reference, "AnB", plan.deepest, plan.deepest), seed)
    right = accuracy(model, test)
    firsts = [int((right & (test.labels == label)).nonzero()[0]) for label in test.labels[right].unique().tolist()]
    rows = torch.tensor(firsts[:STRIP_IMAGES] or [0])
    x, y = test.pixels(rows), test.labels[rows]
    columns: list[Tensor] = [FGSM().perturb(model, x, y, plan.threat.at(plan.threat.eps * k)) for k in STRIP]
    words: list[str] = []
    images = torch.stack(columns, 1).flatten(0, 1)
    with torch.no_grad():
        confidence, guess = model(images).softmax(1).max(1)
    for label, share in zip(guess.tolist(), confidence.tolist(), strict=True):
        words.append(f"{test.classes[label]} {100 * share:.0f} %")
    run.write_tensors("examples/strip.safetensors", {"x": images})
    heads = [f"eps {plan.threat.eps * k:.3g}" for k in STRIP]
    run.write_json("strip", {"words": words, "heads": heads, "true": [test.classes[label] for label in y.tolist()]})


def paired(run: Run, first: str, second: str, key: str) -> float:
    """McNemar's p for two networks on the same images."""
    masks = [run.read_tensors(f"examples/{name}-images.safetensors")[key] for name in (first, second)]
    return mcnemar(masks[0], masks[1]).p


def also_sets(plan: Plan, classes: tuple[str, ...], root: Path | None, progress: Progress = silent) -> dict[str, Data]:
    """The test images of further sets whose class B knows, by the set's spec; labels as B numbers them."""
    found: dict[str, Data] = {}
    for source in plan.also:
        data = source.splits(root, progress).test
        number = torch.tensor([classes.index(name) if name in classes else -1 for name in data.classes])
        rows = (number[data.labels] >= 0).nonzero().squeeze(1)
        if len(rows):
            part = data.take(rows)
            found[repr(source)] = dataclasses.replace(part, labels=number[part.labels], classes=classes)
    return found


def _trust(plan: Plan, model: nn.Module, few: Data, outcome: Outcome, arm: Arm, *, probed: bool) -> Trust:
    subject = f"{arm.name}, {plan.judge!r} within {plan.threat!r}"
    if probed:
        return examine(model, few, outcome, subject=subject, generator=_generator(), sample=plan.scale.num_probe)
    return Trust(subject, tuple(read(outcome)))


def _generator() -> Generator:
    return torch.Generator().manual_seed(0)
