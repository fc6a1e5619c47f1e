"""Attacks A, B, C of the original and the reference minimal-norm attacks, on the same few images in every network."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.confidence import length
from steelman.data import Data, Splits
from steelman.engine import guarded
from steelman.evaluate import Outcome, logits_of, strike
from steelman.page import Check, Trust
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.stats import Share
from steelman.studies.resistance.plan import Plan, unlimited
from steelman.studies.resistance.zoo import Network
from steelman.trust import examine, read
from steelman.types import Images, Labels

LINE = tuple(-0.25 + 1.5 * i / 60 for i in range(61))  # places on the line from the original (0) to the other (1)
NUM_LINES = 4


def attacked(plan: Plan, splits: Splits) -> Data:
    """The images: published the first ones of train, as the original did; corrected the first ones of test."""
    return (splits.train if plan.published else splits.test).first(plan.scale.num_attacked)


def measured(run: Run, plan: Plan, network: Network, few: Data, progress: Progress = silent) -> list[dict[str, Any]]:
    """A row for each norm and attack, computed at most once; every image's result is in `examples/`."""
    name = f"attacks-{network.name}"
    if run.has(f"results/{name}.json"):
        return run.read_json(name)
    x = few.pixels()
    with guarded(network.model):
        label = logits_of(network.model, x).argmax(1)
    rows: list[dict[str, Any]] = []
    kept: dict[str, Tensor] = {"x": x, "label": few.labels, "before": label}
    jobs = [(p, letter, attack) for p in plan.p for letter, attack in plan.attacks(p).items()]
    for done, (p, letter, attack) in enumerate(jobs):
        outcome = against_itself(network.model, x, label, attack, p)
        each = _each_image(outcome, x, p)
        rows.append(_row(outcome, letter, each, p))
        kept |= {f"{key}-{letter}-{p:g}": value for key, value in each.items()}
        progress(done + 1, len(jobs), f"attack {letter}, p = {p:g}")
    run.write_tensors(f"examples/{name}.safetensors", kept)
    run.write_json(name, rows)
    return rows


def against_itself(model: nn.Module, x: Images, label: Labels, attack: Attack, p: float) -> Outcome:
    """The outcome of an attack away from the model's own prediction, as near as possible, from the seed 0."""
    generator = torch.Generator().manual_seed(0)
    return strike(model, (x, label), attack, unlimited(p), closest=True, generator=generator)


def panel(run: Run, plan: Plan, subject: Network, few: Data) -> list[Trust]:
    """Can the attacks' numbers be trusted? Those of C, and with probes of the model those of the reference attack."""
    if not run.has("results/trust.json"):
        x, model = few.pixels(), subject.model
        with guarded(model):
            label = logits_of(model, x).argmax(1)
        course = against_itself(model, x, label, plan.attacks(2.0)["C"], 2.0)
        reference = against_itself(model, x, label, plan.attacks(2.0)["DDN"], 2.0)
        own = dataclasses.replace(few, labels=label)
        probed = examine(model, own, reference, subject=f"{subject.name}, DDN, L2", sample=plan.scale.num_probe)
        trusts = [Trust(f"{subject.name}, attack C on {plan.on}", tuple(read(course))), probed]
        run.write_json("trust", [dataclasses.asdict(trust) for trust in trusts])
    return [read_trust(raw) for raw in run.read_json("trust")]


def read_trust(raw: dict[str, Any]) -> Trust:
    """A panel from its JSON."""
    return Trust(raw["subject"], tuple(Check(**check) for check in raw["checks"]))


def along_lines(run: Run, network: Network) -> dict[str, Any]:
    """Confidence along the lines through original and adversarial image, in the first images that C breaks (p = 2).

    `before` and `after` hold a list an image: the confidence in the original's class and in the adversarial one.
    """
    if not run.has("results/lines.json"):
        kept = run.read_tensors(f"examples/attacks-{network.name}.safetensors")
        letter = "C" if kept["success-C-2"].any() else "DDN"
        rows = kept[f"success-{letter}-2"].nonzero().squeeze(1)[:NUM_LINES]
        x, x_adv = kept["x"][rows], kept[f"x_adv-{letter}-2"][rows]
        lines: dict[str, Any] = {"before": [], "after": [], "attack": letter, "image": rows.tolist()}
        with guarded(network.model), torch.no_grad():
            for i in range(len(rows)):
                way = torch.stack([x[i] + t * (x_adv[i] - x[i]) for t in LINE])
                # as in the original the line leaves [0, 1] where it must
                confidence = network.model(way).softmax(1)
                lines["before"].append(confidence[:, kept["before"][rows[i]]].tolist())
                lines["after"].append(confidence[:, kept[f"after-{letter}-2"][rows[i]]].tolist())
        run.write_json("lines", lines)
    return run.read_json("lines")


def health(outcome: Outcome) -> dict[str, float]:
    """Shares over the attacked images: what their gradients were like, and how much of each image ever moved."""
    health = outcome.health
    steps = health.steps.clamp_min(1)
    return {
        "gradient_nan": float((health.nan / steps).mean()),
        "gradient_zero": float((health.zero / steps).mean()),
        "gradient_dead": float((health.dead == health.steps).float().mean()),
        "saturated": float((health.saturated / steps).mean()),
        "never_moved": float((health.moved == 0).float().mean()),
    }


def _row(outcome: Outcome, letter: str, each: dict[str, Tensor], p: float) -> dict[str, Any]:
    norms = each["norm"][outcome.broken].double()
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    low, middle, high = norms.quantile(levels).tolist() if len(norms) else (None, None, None)
    worst = Trust("", tuple(read(outcome))).verdict
    return {
        "attack": letter,
        "spec": repr(outcome.attack),
        "p": p,
        "success": Share.of(outcome.broken).to_json(),
        "norms": [low, middle, high],
        "gradients": float(outcome.backwards.float().mean()),
        "seconds": round(outcome.seconds, 3),
        "verdict": worst,
        **health(outcome),
    }


def _each_image(outcome: Outcome, x: Images, p: float) -> dict[str, Tensor]:
    return {
        "x_adv": outcome.x_adv,
        "success": outcome.broken,
        "norm": torch.where(outcome.broken, length(outcome.x_adv - x, p), math.nan),
        "steps": outcome.backwards,
        "after": outcome.after,
        "confidence": outcome.after_confidence,
    }
