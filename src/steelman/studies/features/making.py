"""Open questions (b) and (d): features made directly, and perturbations that can be read, judged by another net."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from steelman.data import Splits
from steelman.evaluate import accuracy
from steelman.features.distances import nearest
from steelman.features.synthesis import alone, ascend
from steelman.page import Bars, Grid, Item, Series, Table
from steelman.progress import Stages
from steelman.runs import Run
from steelman.stats import Share
from steelman.studies.features.networks import Network
from steelman.studies.features.plan import Plan
from steelman.studies.features.questions import Answer, Question, of_each_class
from steelman.threats import L2
from steelman.wording import share_text

NAMES = {"standard": "standard", "robust": "worst-of-group robust", "pgd": "PGD-robust"}
EACH = {"smoke": 4, "quick": 20, "full": 100}  # images of each class
SEEN, NEAR = 0.5, 1.5  # share that the judge must see; distance in units of that of real images
NOISE_MEAN, NOISE_STD = 0.2, 0.1  # of the starts of synthesis
SYNTHESIS, READABLE = L2(float("inf")), L2(8.0)


@dataclass(frozen=True, repr=False)
class FeaturesSynthesis(Question):
    """Climb towards each class from noise; another net and the nearest training image judge what comes out."""

    question: ClassVar[str] = "Can robust features be synthesised directly, without any image to reconstruct?"
    original: ClassVar[str] = "xziyue/robust_mnist_feature_py, 2019: second open question"

    def answer(self, run: Run, plan: Plan, splits: Splits, root: Path | None, stages: Stages) -> Answer:  # noqa: D102
        nets, judge = self.three(run, plan, root, stages), self.judge(run, plan, root, stages)
        classes = len(splits.test.classes)
        labels = torch.arange(classes).repeat_interleave(EACH[self.scale])
        noise = torch.empty((len(labels), *splits.test.shape))
        noise = noise.normal_(NOISE_MEAN, NOISE_STD, generator=torch.Generator().manual_seed(self.seed)).clamp(0, 1)
        x = {net.name: _made(run, net, noise, labels, SYNTHESIS, stages) for net in nets}
        train = splits.train.first(plan.scale.num_train).pixels()
        rows = {name: _judged(judge, made, labels, nearest(made, train)) for name, made in x.items()}
        real = splits.test.first(len(labels))
        rows["real"] = _judged(judge, real.pixels(), real.labels, nearest(real.pixels(), train))
        run.write_json("judged", rows)
        return Answer(
            synthesis_headline(rows),
            tuple(
                f"{_label(name)}: the judge sees the intended class in {share_text(row['right'])}; median L2 distance "
                f"to the nearest training image {row['nearest']:.2f}."
                for name, row in rows.items()
            ),
            f"From noise, {SYNTHESIS!r}, towards each class by the steepest rise of its probability. The judge is "
            "a BasicCNN that took no part.",
            (_table(rows), _bars(rows, "judged"), _grid(run, x, splits.test.classes, labels, "synthesised")),
        )


@dataclass(frozen=True, repr=False)
class FeaturesReadable(Question):
    """Large perturbations towards the next class, looked at alone: does another net read that class in them?"""

    question: ClassVar[str] = "Are there perturbations that a human can read, and whose networks have them?"
    original: ClassVar[str] = "xziyue/robust_mnist_feature_py, 2019: fourth open question"

    def answer(self, run: Run, plan: Plan, splits: Splits, root: Path | None, stages: Stages) -> Answer:  # noqa: D102
        nets, judge = self.three(run, plan, root, stages), self.judge(run, plan, root, stages)
        few = of_each_class(splits.test, EACH[self.scale])
        x, target = few.pixels(), (few.labels + 1) % len(few.classes)
        changed = {net.name: _made(run, net, x, target, READABLE, stages) for net in nets}
        added = {name: alone(made, x) for name, made in changed.items()}
        rows: dict[str, Any] = {}
        for name, picture in added.items():
            rows[name] = _judged(judge, picture, target, nearest(picture, splits.train.first(2_000).pixels()))
            rows[name]["whole"] = Share.of(accuracy(judge.model, (changed[name], target))).to_json()
        run.write_json("judged", rows)
        return Answer(
            readable_headline(rows, len(few.classes)),
            tuple(
                f"{_label(name)}: the judge reads the target class in {share_text(row['right'])} perturbations alone, "
                f"and in {share_text(row['whole'])} perturbed images."
                for name, row in rows.items()
            ),
            f"Test images are pushed within {READABLE!r} towards the next class. What was added is shown alone, its "
            "brightest pixel at 1. The judge is a BasicCNN, trained on clean images.",
            (_table(rows), _bars(rows, "readable"), _grid(run, added, few.classes, few.labels, "perturbations")),
        )


def synthesis_headline(rows: dict[str, Any]) -> str:
    """Yes only if another net sees the class and the images lie about as near to training images as real ones do."""
    best = min(NAMES, key=lambda name: (rows[name]["right"]["low"] <= SEEN, rows[name]["nearest"]))
    told = "; ".join(f"{NAMES[name]}: {share_text(rows[name]['right'])}" for name in NAMES)
    far = f"{rows[best]['nearest']:.1f} from the nearest training image, real ones {rows['real']['nearest']:.1f}"
    if rows[best]["right"]["low"] <= SEEN:
        return f"No: in images climbed from noise another net seldom sees the intended class ({told})."
    if rows[best]["nearest"] <= NEAR * rows["real"]["nearest"]:
        return f"Yes, on the {NAMES[best]} net: another net sees the class ({told}), and images are {far}."
    return f"Only for a network: another net sees the intended class ({told}), but even the nearest images are {far}."


def readable_headline(rows: dict[str, Any], classes: int) -> str:
    """Which net's perturbations, looked at alone, another net can read."""
    best = max(rows, key=lambda name: rows[name]["right"]["value"])
    told = ", ".join(f"{share_text(row['right'])} ({NAMES[name]})" for name, row in rows.items())
    if rows[best]["right"]["low"] > 0.5:
        return f"Yes, those of the {NAMES[best]} net: another net reads the target in most of them alone: {told}."
    chance = f"chance is {100 / classes:.3g} %"
    return f"Hardly: in the perturbations alone another net reads the target class in {told}; {chance}."


def _label(name: str) -> str:
    return f"{NAMES[name]} net" if name in NAMES else "real test images"


def _made(run: Run, network: Network, start: Tensor, labels: Tensor, threat: L2, stages: Stages) -> Tensor:
    file = f"examples/made-{network.name}.safetensors"
    if not run.has(file):
        progress = stages.stage(f"climbing on the {network.name} net")
        made = ascend(network.model, start, labels, threat, steps=40, step_size=0.05, progress=progress)
        run.write_tensors(file, {"x": made, "y": labels})
    return run.read_tensors(file)["x"]


def _judged(judge: Network, x: Tensor, labels: Tensor, distance: Tensor) -> dict[str, Any]:
    right = Share.of(accuracy(judge.model, (x, labels)))
    return {"right": right.to_json(), "nearest": float(distance.median())}


def _table(rows: dict[str, Any]) -> Item:
    cells = tuple((_label(name), row["right"], row["nearest"]) for name, row in rows.items())
    columns = ("made on", "the judge sees the class", "median distance to the nearest training image")
    return Table("What an independent net says.", columns, cells)


def _bars(rows: dict[str, Any], name: str) -> Item:
    ends = ("value", "low", "high")
    x = tuple(_label(key) for key in rows)
    series = (Series("the judge", "other", x, *(tuple(row["right"][end] for row in rows.values()) for end in ends)),)
    return Bars(name, "Share in which an independent net sees the intended class.", "share", series)


def _grid(run: Run, x: dict[str, Tensor], classes: tuple[str, ...], labels: Tensor, name: str) -> Item:
    """A row a network, a column a class that has images; the first image of each class."""
    shown = [number for number in range(len(classes)) if bool((labels == number).any())]
    firsts = torch.tensor([int((labels == number).nonzero()[0]) for number in shown])
    pictures = torch.cat([made[firsts] for made in x.values()])
    run.write_tensors(f"examples/{name}.safetensors", {"x": pictures.contiguous()})
    order = ", ".join(NAMES[key] for key in x)
    caption = f"The first of each class; rows: {order}."
    heads = tuple(classes[number] for number in shown)
    return Grid(name, caption, f"examples/{name}.safetensors", len(heads), heads=heads)
