"""Can low resistance give adversarial images away, and does that hold against an attacker who knows it?

An attacker who knows a detector (Carlini & Wagner 2017, arXiv:1705.07263) does not stop at the boundary: of several
wrong images, further and further behind it, he hands in the one that this detector finds least suspect.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.carlini_wagner import CarliniWagner
from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.attacks.square import Square
from steelman.data import Data, Splits
from steelman.engine import guarded, predict
from steelman.evaluate import strike
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.stats import Share
from steelman.studies.resistance.course import follow
from steelman.studies.resistance.discriminate import LEARNERS
from steelman.studies.resistance.held import nearest
from steelman.studies.resistance.plan import Plan, reference
from steelman.studies.resistance.scores import Flags, Values, auroc
from steelman.studies.resistance.zoo import Network, is_right
from steelman.threats import L2, Ball, Linf
from steelman.types import Images, Labels

Features: TypeAlias = dict[str, Values]
OVERSHOOT = (1.5, 2.5)  # how far behind the original success an attacker goes who knows of the detectors
ALARMS = 0.05  # of clean images of val: where a detector's threshold lies
LEARNED = "learned from courses"
DETECTORS = ("Res_max", "distance", "confidence", "entropy", LEARNED)


@dataclass(frozen=True)
class Method:
    """A way to make adversarial images, and where its images may lie."""

    name: str
    attack: Attack
    threat: Ball


def methods(plan: Plan, eps: float) -> tuple[Method, ...]:
    """The attacks whose images are to be detected."""
    ball, free = Linf(eps), L2(math.inf)
    return (
        Method("FGSM", FGSM(), ball),
        Method("PGD", PGD(steps=40), ball),
        Method("CW", CarliniWagner(steps=20, searches=2, start_steps=20), free),
        Method("DDN", reference(plan.scale.nearest), free),
        Method("Square", Square(queries=plan.scale.queries, rescale=True), ball),
    )


def measured(
    run: Run, plan: Plan, subject: Network, splits: Splits, eps: float, progress: Progress = silent
) -> dict[str, Any]:
    """AUROC and share caught of every detector, against every attack, static and adaptive; computed at most once."""
    if run.has("results/detection.json"):
        return run.read_json("detection")
    model, ways = subject.model, methods(plan, eps)
    val, test = (
        _right_ones(plan, subject, split, data) for split, data in (("val", splits.val), ("test", splits.test))
    )
    clean_val, clean = (
        _kept(run, f"{name}-clean", plan, model, data.pixels()) for name, data in (("val", val), ("test", test))
    )
    progress(1, 2 + 2 * len(ways), "clean images")
    lessons: list[Features] = []
    for done, way in enumerate(ways):
        x_adv, hit = _crafted(model, val, way)
        lessons.append(_only(_kept(run, f"val-{way.name}", plan, model, x_adv), hit.numpy()))
        progress(2 + done, 2 + 2 * len(ways), f"{way.name} images to learn from")
    scores = _detectors(clean_val, lessons, plan.seed)
    limits = {name: float(np.quantile(score(clean_val), 1 - ALARMS)) for name, score in scores.items()}
    rows: list[dict[str, Any]] = []
    for done, way in enumerate(ways):
        rows.append(_against(run, plan, model, test, way, clean, scores, limits))
        progress(2 + len(ways) + done, 2 + 2 * len(ways), f"{way.name} images")
    facts = {"eps": eps, "clean": len(test), "alarms": _alarms(scores, limits, clean), "rows": rows}
    run.write_json("detection", facts)
    return facts


def _right_ones(plan: Plan, subject: Network, split: str, data: Data) -> Data:
    return data.take(is_right(subject, split, data).nonzero().squeeze(1)[: plan.scale.num_detect])


def _crafted(model: nn.Module, data: Data, way: Method) -> tuple[Images, Tensor]:
    """The adversarial images, and which of them are."""
    closest = math.isinf(way.threat.eps)
    generator = torch.Generator().manual_seed(0)
    outcome = strike(model, data, way.attack, way.threat, closest=closest, generator=generator)
    return outcome.x_adv, outcome.broken


def _against(
    run: Run,
    plan: Plan,
    model: nn.Module,
    test: Data,
    way: Method,
    clean: Features,
    scores: dict[str, Callable[[Features], Values]],
    limits: dict[str, float],
) -> dict[str, Any]:
    """One attack's images before every detector: as they are, and chosen by an attacker who knows the detector."""
    x, y = test.pixels(), test.labels
    x_adv, hit = _crafted(model, test, way)
    options = [(x_adv, hit), *_deeper(model, x, y, x_adv, hit, way)]
    features = [_kept(run, f"test-{way.name}-{i}", plan, model, images) for i, (images, _) in enumerate(options)]
    wrong = torch.stack([still for _, still in options]).numpy()
    lengths = torch.stack([L2(math.inf).distance(images, x) for images, _ in options]).numpy()
    reached, every = hit.numpy(), np.arange(len(test))
    row: dict[str, Any] = {"attack": way.name, "spec": repr(way.attack), "threat": repr(way.threat)}
    row |= {"success": Share.of(hit).to_json(), "static": {}, "adaptive": {}}
    for name, score in scores.items():
        suspicion = np.stack([score(one) for one in features])
        choice = np.where(wrong, suspicion, np.inf).argmin(0)
        for kind, chosen in (("static", np.zeros_like(choice)), ("adaptive", choice)):
            shown = suspicion[chosen, every][reached]
            both = np.concatenate((score(clean), shown))
            caught = torch.from_numpy(shown > limits[name])
            row[kind][name] = {
                "auroc": auroc(both, np.arange(len(both)) >= len(test)),
                "caught": Share.of(caught).to_json(),
                "norm": float(lengths[chosen, every][reached].mean()) if reached.any() else None,
            }
    return row


def _deeper(
    model: nn.Module, x: Images, y: Labels, x_adv: Images, hit: Tensor, way: Method
) -> list[tuple[Images, Tensor]]:
    """Images further behind the boundary, and which of them the model gets wrong.

    Those on the line through the success, and those of an attack that climbs the margin to its last step: within the
    attack's own threat, or for a minimal-norm attack 2.5 times as far as its median success.
    """
    threat = way.threat
    further = [x + t * (x_adv - x) for t in OVERSHOOT]
    inside = [threat.project(one, x) for one in further]
    if math.isinf(threat.eps):
        known = threat.distance(x_adv, x)[hit]
        threat = threat.at(OVERSHOOT[-1] * float(known.median()) if len(known) else 1.0)
    inside.append(PGD(steps=40, loss="margin").perturb(model, x, y, threat))
    with guarded(model):
        return [(one, predict(model, one).argmax(1) != y) for one in inside]


def _kept(run: Run, name: str, plan: Plan, model: nn.Module, x: Images) -> Features:
    """What the detectors look at, computed at most once."""
    file = f"parts/detect/{name}.safetensors"
    if not run.has(file):
        with guarded(model):
            logits = predict(model, x)
        label, exact = logits.argmax(1), logits.double()
        course = follow(model, x, label, plan.course())
        distance, _ = nearest(model, x, label, plan.scale.nearest)
        log_probability = exact.log_softmax(1)
        others = exact.scatter(1, label[:, None], -torch.inf).logsumexp(1)
        tensors = {
            "Res_max": course.resistance("Res_max").double(),
            "distance": distance.double(),
            "confidence": exact.amax(1) - others,
            "entropy": (log_probability.exp() * log_probability).sum(1),
            "courses": torch.cat((course.norms, course.confidences), 1).double(),
        }
        run.write_tensors(file, tensors)
    return {key: value.numpy() for key, value in run.read_tensors(file).items()}


def _only(features: Features, rows: Flags) -> Features:
    return {key: values[rows] for key, values in features.items()}


def _detectors(clean: Features, lessons: list[Features], seed: int) -> dict[str, Callable[[Features], Values]]:
    """Suspicion of each image: low where it is far from the boundary; learned from val, clean against adversarial."""

    def minus(name: str) -> Callable[[Features], Values]:
        return lambda features: -features[name]

    found = {name: minus(name) for name in DETECTORS if name != LEARNED}
    x = np.concatenate([clean["courses"], *(lesson["courses"] for lesson in lessons)])
    adversarial = np.arange(len(x)) >= len(clean["courses"])
    if adversarial.any():
        chance = LEARNERS["gradient boosting"](x, adversarial, seed)
        found[LEARNED] = lambda features: chance(features["courses"])
    return found


def _alarms(
    scores: dict[str, Callable[[Features], Values]], limits: dict[str, float], clean: Features
) -> dict[str, Any]:
    """False alarms among the clean test images, at the thresholds chosen on val."""
    return {name: Share.of(torch.from_numpy(score(clean) > limits[name])).to_json() for name, score in scores.items()}
