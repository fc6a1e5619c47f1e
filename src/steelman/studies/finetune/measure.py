"""What is measured of one network: every epoch, and in full before and after fine-tuning."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.fgsm import FGSM
from steelman.chance import generators_of
from steelman.data import Data
from steelman.evaluate import Outcome, accuracy, adversarial_accuracy, strike
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.stats import Share, mcnemar
from steelman.studies.finetune.plan import JUDGE, Plan
from steelman.threats import Linf
from steelman.train import load_run
from steelman.trust import examine
from steelman.types import Mask

NUM_SAMPLES = 10


@dataclass(frozen=True)
class EachEpoch:
    """Measures a network at every epoch: natural, under FGSM and under PGD-40, on test images.

    FGSM is counted twice: `fgsm_images` as the original did (accuracy on the attacked images, wrong originals attacked
    too), and `fgsm` as robust accuracy (right before and after).
    """

    plan: Plan
    test: Data

    def __call__(self, _: int, model: nn.Module) -> dict[str, Any]:
        """The row's measures: shares, and the health of PGD's gradients."""
        natural = accuracy(model, self.test)
        attacked = adversarial_accuracy(model, self.test, FGSM(), self.plan.threat)
        few = self.test.first(self.plan.scale.num_pgd)
        outcome = strike(model, few, _looked_at(model), self.plan.threat, generator=_generator())
        return {
            "natural": Share.of(natural).to_json(),
            "fgsm_images": Share.of(attacked).to_json(),
            "fgsm": Share.of(natural & attacked).to_json(),
            "pgd": Share.of(_held(model, few, outcome, self.plan.threat)).to_json(),
            **_health(outcome),
        }


def measured(
    run: Run, plan: Plan, model: Path, test: Data, name: str, *, curve: bool, progress: Progress = silent
) -> dict[str, Any]:
    """Everything the report says of the network in a run directory, computed at most once.

    Leaves `results/<name>.json` (what is returned), and in `examples/` every image's outcome and a sheet of samples.
    `curve=False` leaves out accuracy over eps and the trust checks.
    """
    if run.has(f"results/{name}.json"):
        return run.read_json(name)
    network = load_run(model).model
    final = test.first(plan.scale.num_final)
    fgsm = strike(network, final, FGSM(), plan.threat, progress=progress)
    few = final.first(plan.scale.num_pgd) if generators_of(network) else final
    pgd = strike(network, few, _looked_at(network), plan.threat, generator=_generator(), progress=progress)
    attacked = adversarial_accuracy(network, final, FGSM(), plan.threat)
    robust = fgsm.right & (attacked if generators_of(network) else ~fgsm.broken)
    held = {"natural": fgsm.right, "fgsm": robust, "pgd": _held(network, few, pgd, plan.threat)}
    held["fgsm_images"] = attacked
    run.write_tensors(f"examples/{name}-images.safetensors", held)
    run.write_tensors(f"examples/{name}-samples.safetensors", _samples(final, fgsm, network, plan.threat))
    found: dict[str, Any] = {key: Share.of(mask).to_json() for key, mask in held.items()}
    found["p"] = {key: mcnemar(held["fgsm"][: len(held[key])], held[key]).p for key in ("natural", "pgd")}
    found["p"]["leak"] = mcnemar(attacked, held["natural"]).p
    if curve:
        found["curve"] = _curve(plan, network, test.first(plan.scale.num_pgd), progress)
        trust = examine(network, final, fgsm, generator=_generator(), sample=plan.scale.num_probe)
        found["trust"] = dataclasses.asdict(trust)
    run.write_json(name, found)
    return found


def _looked_at(model: nn.Module) -> Attack:
    """The attack whose gradients are looked at: the judge, and a single step where passes are dear and random."""
    return FGSM() if generators_of(model) else JUDGE


def _held(model: nn.Module, few: Data, outcome: Outcome, threat: Linf) -> Mask:
    """Which images hold against the judge.

    A strike on a random model would stop at the first candidate that one draw gets wrong and another may get right
    again. There the judge goes all its way, and its last candidate counts.
    """
    if not generators_of(model):
        return outcome.right & ~outcome.broken
    return outcome.right & adversarial_accuracy(model, few, JUDGE, threat, generator=_generator())


def _curve(plan: Plan, model: nn.Module, few: Data, progress: Progress) -> dict[str, list[dict[str, Any]]]:
    curve: dict[str, list[dict[str, Any]]] = {"FGSM": [], "PGD-40": []}
    for eps in plan.eps_list:
        for name, attack in (("FGSM", FGSM()), ("PGD-40", JUDGE)):
            outcome = strike(model, few, attack, plan.threat.at(eps), generator=_generator(), progress=progress)
            curve[name].append(outcome.robust.to_json())
    return curve


def _samples(final: Data, fgsm: Outcome, model: nn.Module, threat: Linf) -> dict[str, Tensor]:
    """The first image of each class with its FGSM image, predictions and confidences."""
    firsts = [int((final.labels == label).nonzero()[0]) for label in final.labels.unique().tolist()]
    rows = torch.tensor(firsts[:NUM_SAMPLES])
    x, y = final.pixels(rows), final.labels[rows]
    x_adv = FGSM().perturb(model, x, y, threat)
    with torch.no_grad():
        after = model(x_adv).softmax(1).max(1)
    return {
        "x": x,
        "x_adv": x_adv,
        "label": y,
        "before": fgsm.before[rows],
        "before_confidence": fgsm.before_confidence[rows],
        "after": after.indices,
        "after_confidence": after.values,
    }


def _health(outcome: Outcome) -> dict[str, float]:
    """Shares over the attacked images; NaN-free networks have 0 NaN."""
    health, asked = outcome.health, outcome.health.steps > 0
    if not asked.any():
        return {"gradient_nan": 0.0, "gradient_zero": 0.0, "pixels_moved": 0.0}
    steps = health.steps[asked]
    return {
        "gradient_nan": float((health.nan[asked] / steps).mean()),
        "gradient_zero": float((health.zero[asked] / steps).mean()),
        "pixels_moved": float(health.moved[asked].mean()),
    }


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
