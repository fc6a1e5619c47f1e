"""Is the classifier right here? Classifiers of courses: the original's two nets, boosted trees and a logistic model.

The original learns from as many right as wrong images of train and val, 50 norms or 50 confidences each, and tests on
all test images, nearly all of which are right: so accuracy says little, and area under ROC stands beside it.
"""

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from steelman.data import Data, Splits
from steelman.models import seeded
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.stats import Share
from steelman.studies.resistance.course import POINTS, Course, follow
from steelman.studies.resistance.held import Held
from steelman.studies.resistance.plan import Plan
from steelman.studies.resistance.scores import Flags, Values, auroc, average_precision
from steelman.studies.resistance.zoo import Network, all_logits

Learner: TypeAlias = Callable[[Values, Flags, int], Callable[[Values], Values]]  # to P(wrong)
FEWEST = 5  # wrong images to learn from
_BINS = 10  # of the calibration curve


class Discriminator(nn.Sequential):
    """The original's net from 50 values to two logits; 2,252 parameters."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(1, 5, 5),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(5, 10, 3),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(100, 20),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(20, 2),
        )


def measured(
    run: Run, plan: Plan, subject: Network, splits: Splits, found: Held, wrong: Flags, progress: Progress = silent
) -> dict[str, Any]:
    """Every discriminator on norms and on confidences, judged on the test images; computed at most once."""
    if run.has("results/discriminator.json"):
        return run.read_json("discriminator")
    lesson, was_wrong = _lesson(run, plan, subject, splits, progress)
    num_wrong = int(was_wrong.sum())
    facts: dict[str, Any] = {"learned": len(was_wrong), "learned_wrong": num_wrong, "rows": []}
    if num_wrong >= FEWEST and wrong.any():
        for values in ("norms", "confidences"):
            x, tested = _values(lesson, values), _values(found.course, values)
            for name, learner in LEARNERS.items():
                chance = learner(x, was_wrong, plan.seed)(tested)
                facts["rows"].append({"on": values, "learner": name, **_judged(chance, wrong)})
    run.write_json("discriminator", facts)
    return facts


def _lesson(run: Run, plan: Plan, subject: Network, splits: Splits, progress: Progress) -> tuple[Course, Flags]:
    """Courses of wrong images of train and val, and of as many right ones."""
    file = "parts/lesson.safetensors"
    if not run.has(file):
        parts: list[tuple[Data, Tensor]] = []
        for data in (splits.train.first(plan.scale.num_train), splits.val):
            parts.append((data, all_logits(subject.model, data).argmax(1)))
        wrong = [(label != data.labels).nonzero().squeeze(1) for data, label in parts]
        right = [(label == data.labels).nonzero().squeeze(1) for data, label in parts]
        room = plan.scale.num_wrong
        val = wrong[1][:room]  # unseen by the classifier: first
        chosen = [wrong[0][: room - len(val)], val]
        x, y, flags = [], [], []
        for (data, label), bad, good in zip(parts, chosen, right, strict=True):
            rows = torch.cat((bad, good[: len(bad)]))
            x.append(data.pixels(rows))
            y.append(label[rows])
            flags.append(torch.arange(len(rows)) < len(bad))
        course = follow(subject.model, torch.cat(x), torch.cat(y), plan.course()) if sum(map(len, y)) else None
        tensors = {"wrong": torch.cat(flags)} | ({} if course is None else course.tensors())
        run.write_tensors(file, tensors)
    progress(1, 2, "courses to learn from")
    tensors = run.read_tensors(file)
    was_wrong = tensors.pop("wrong").numpy().astype(bool)
    return Course(**tensors) if tensors else _no_course(), was_wrong


def _no_course() -> Course:
    none, count = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    many, mask = torch.zeros(0, POINTS), torch.zeros(0, dtype=torch.bool)
    return Course(many, many, none, none, count, count, mask, mask)


def _values(course: Course, which: str) -> Values:
    return (course.norms if which == "norms" else course.confidences).double().numpy()


def _judged(chance: Values, wrong: Flags) -> dict[str, Any]:
    """What P(wrong) is worth on the test images; a verdict is above one half, as the original's."""
    flagged = chance > 0.5
    return {
        "false_alarms": int((flagged & ~wrong).sum()),
        "missed": int((~flagged & wrong).sum()),
        "accuracy": Share.of(torch.from_numpy(flagged == wrong)).to_json(),
        "auroc": auroc(chance, wrong),
        "aupr": average_precision(chance, wrong),
        "brier": float(np.mean((chance - wrong) ** 2)),
        "calibration": _calibration(chance, wrong),
    }


def _calibration(chance: Values, wrong: Flags) -> list[tuple[float, float, int]]:
    """For each tenth of the unit interval that is met: mean P(wrong), share of wrong images, number of images."""
    bins = np.minimum((chance * _BINS).astype(int), _BINS - 1)
    met = [bins == i for i in range(_BINS) if (bins == i).any()]
    return [(float(chance[rows].mean()), float(wrong[rows].mean()), int(rows.sum())) for rows in met]


# ---- learners: from values and flags to a function that gives P(wrong)


def _logistic(x: Values, wrong: Flags, seed: int) -> Callable[[Values], Values]:  # noqa: ARG001
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _fitted(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), x, wrong)


def _boosting(x: Values, wrong: Flags, seed: int) -> Callable[[Values], Values]:
    from sklearn.ensemble import GradientBoostingClassifier

    return _fitted(GradientBoostingClassifier(n_estimators=60, max_features="sqrt", random_state=seed), x, wrong)


def _perceptron(x: Values, wrong: Flags, seed: int) -> Callable[[Values], Values]:
    from sklearn.neural_network import MLPClassifier

    options: dict[str, Any] = {"learning_rate_init": 5e-4, "batch_size": min(32, len(x)), "max_iter": 40}
    net = MLPClassifier((30,), random_state=seed, **options)
    return _fitted(net, x, wrong)


def _fitted(learner: Any, x: Values, wrong: Flags) -> Callable[[Values], Values]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 40 epochs are the protocol, whether it has converged or not
        learner.fit(x, wrong)
    return lambda values: np.asarray(learner.predict_proba(values)[:, 1], dtype=np.float64)


def _convolution(x: Values, wrong: Flags, seed: int) -> Callable[[Values], Values]:
    """The original's net and training: Adam 2e-4, 40 epochs, batches of 32."""
    generator = torch.Generator().manual_seed(seed)
    inputs, target = _inputs(x), torch.from_numpy(wrong).long()
    with seeded(generator):
        net = Discriminator().train()
        adam = torch.optim.Adam(net.parameters(), lr=2e-4)
        for _ in range(40):
            for rows in torch.randperm(len(inputs), generator=generator).split(32):
                adam.zero_grad()
                F.cross_entropy(net(inputs[rows]), target[rows]).backward()
                adam.step()
    net.eval()

    def chance(values: Values) -> Values:
        with torch.no_grad():
            return net(_inputs(values)).softmax(1)[:, 1].double().numpy()

    return chance


def _inputs(x: Values) -> Float[Tensor, "b 1 t"]:
    return torch.from_numpy(x).float()[:, None]


LEARNERS: dict[str, Learner] = {
    "original's conv net": _convolution,
    "original's 50-30-2": _perceptron,
    "gradient boosting": _boosting,
    "logistic": _logistic,
}
