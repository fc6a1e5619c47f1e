"""The study `transfer`: which part of a pretrained network carries robustness to a new task?

Original: Bernice55231/Deep-Learning-Project (2022), AnB and AnB+ of MobileNetV2 on ImageNet-R under FGSM. The protocol
that it follows: Yosinski et al. 2014 (arXiv:1411.1792). LP-FT: Kumar et al. 2022 (arXiv:2202.10054).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from steelman.attacks import Attack
from steelman.data import Data, Source, Splits
from steelman.data._files import data_root
from steelman.data.classes import Classes
from steelman.data.pacs import PACS
from steelman.errors import UsageError
from steelman.models import Architecture
from steelman.models.cuts import cut_points
from steelman.models.mobilenet import MobileNetV2
from steelman.progress import Progress, Stages, silent
from steelman.recipe import default_recipe
from steelman.runs import Run
from steelman.studies import Study
from steelman.studies.transfer import measure
from steelman.studies.transfer.pages import write_page
from steelman.studies.transfer.plan import (
    PUBLISHED_EPS,
    SCALES,
    TWIN_SCALES,
    Arm,
    Init,
    Plan,
    arms_of,
    check,
    part_name,
    small_network,
    usual_cuts,
    usual_treatments,
)
from steelman.studies.transfer.radius import with_radius
from steelman.studies.transfer.shape import shapes
from steelman.threats import Linf
from steelman.train import Training, train

WEIGHTS = "mobilenet_v2_imagenet1k.safetensors"  # looked for in the data root before anything is downloaded
PHOTO = 64  # pixels a side from which on MobileNetV2 is the usual network


@dataclass(frozen=True, repr=False)
class Transfer(Study):
    """Copy the first n blocks of network A, freeze or train them on task B, and attack every network that results.

    With a pretrained network (photos) B is the whole data set. Without one, A is trained here on half of the classes
    and B is the other half. Empty or None fields take the preset's and the scale's own choice.

    Fields:
        network: the network; where it is pretrained, that is A. None: MobileNetV2 for photos, else a small one.
        cuts: how many blocks are copied, one arm of each treatment a number.
        treatments: of base, AnB, AnB+, BnB, BnB+, LP-FT, AFT; base is always among them.
        init: what is above the copied blocks: a random draw (meant), or A's weights as well (what the original did).
        epochs: of training on B; published 4, with a second optimiser for the last half of AnB+. Where a network is
            trained in two parts they share the epochs; each has one at least.
        lr: of training on B; published 1e-4.
        eps: the radius, L-inf; published 0.01 where pixels run from -1 to 1, which is 0.005 here. Without a pretrained
            network it is chosen on val images of base B (see steelman.studies.transfer.radius).
        attacks: those of the matrix, each made on every source network and judged on all.
        also: further sets, whose test images of B's classes every network is judged on.
        seeds: how many.

    Raises:
        UsageError: no seed, or treatments or cuts that there are not.
    """

    network: Architecture | None = None
    cuts: tuple[int, ...] = ()
    treatments: tuple[str, ...] = ()
    init: Init | None = None
    epochs: int | None = None
    lr: float | None = None
    eps: float | None = None
    attacks: tuple[Attack, ...] = ()
    also: tuple[Source, ...] = ()
    seeds: int | None = None

    question: ClassVar[str] = "Which part of a pretrained network carries robustness to a new task?"
    original: ClassVar[str] = "Bernice55231/Deep-Learning-Project, 2022"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.treatments or ("base",), (), ())
        if self.seeds is not None and self.seeds < 1:
            raise UsageError(f"seeds is {self.seeds}. Expected at least one.")

    def plan(self, classes: tuple[str, ...], shape: tuple[int, int, int], root: Path | None = None) -> Plan:
        """The study with every choice made, for data of these classes and shape.

        Raises:
            UsageError: a cut that the network has not (says which it has), or too few classes to split in two.
        """
        network = self.network or (_pretrained(root) if min(shape[1:]) >= PHOTO else small_network())
        twin, published = network == network.blank(), self.preset == "published"
        scale = (TWIN_SCALES if twin else SCALES)[self.scale]
        points = tuple(cut_points(network.blank()(shape, 2, torch.Generator().manual_seed(0))))
        check(self.treatments or ("base",), self.cuts, points)
        epochs = self.epochs if self.epochs is not None else 8 if twin and not published else 4
        task_a, task_b = _halves(self.data, classes, self.seed) if twin else (self.data, self.data)
        cuts = self.cuts or usual_cuts(points, scale.cuts)
        treatments = self.treatments or usual_treatments(self.preset, scale)
        a = Training(network, task_a, default_recipe(network, epochs=2 * epochs), seed=self.seed, num=scale.num_train)
        usual_eps = self.data.usual_eps if twin else PUBLISHED_EPS
        return Plan(
            scale=scale,
            network=network.blank(),
            a=a if twin else network,
            b=task_b,
            arms=arms_of(treatments, cuts, points[-1]),
            cuts=cuts,
            deepest=points[-1],
            init=self.init or ("pretrained" if published else "random"),
            threat=Linf(usual_eps if self.eps is None else self.eps),
            eps_from="asked" if self.eps is not None else "val" if twin else "original",
            attacks=self.attacks or scale.family,
            also=self.also or (self.data.domains() if isinstance(self.data, PACS) else ()),
            epochs=epochs,
            lr=self.lr if self.lr is not None else 1e-4 if published and not twin else 1e-3,
            seeds=tuple(range(self.seed, self.seed + (self.seeds or scale.seeds))),
            published=published,
        )

    def run(  # noqa: D102
        self, out: Path, root: Path | None = None, progress: Progress = silent, *, command: str = ""
    ) -> None:
        whole = self.data.splits(root, progress)
        plan = self.plan(whole.train.classes, whole.train.shape, root)
        splits = plan.b.splits(root, progress)
        trainings = sum(len(plan.trainings(arm, 0)) for arm in plan.every_arm)
        stages = Stages(progress, 3 + len(plan.seeds) * (2 * trainings + len(plan.arms)) + len(plan.sources))
        with Run.open(out, repr(self), splits.digest, command=command) as run:
            if not run.finished:
                _train_a(plan, run, root, stages)
                if plan.eps_from == "val":
                    _train_arm(plan, run, plan.arms[0], plan.seeds[0], root)
                    plan = with_radius(run, plan, splits.val)
                for seed in plan.seeds:
                    _one_seed(plan, run, seed, root, splits, stages)
                test, first = splits.test.first(plan.scale.num_test), plan.seeds[0]
                stage = stages.stage("adversarial images across networks", len(plan.sources))
                measure.across(run, plan, plan.sources, first, test, stage)
                further = measure.also_sets(plan, splits.train.classes, root)
                measure.elsewhere(run, plan.arms, first, further)
                measure.strip(run, plan, first, test)
                shapes(run, plan, splits.train, root, stages.stage("shape and texture"))
                write_page(self, plan, run, splits, command)
                run.finish()


def _one_seed(plan: Plan, run: Run, seed: int, root: Path | None, splits: Splits, stages: Stages) -> None:
    """Train every arm and measure it; parts that are on disk are not computed again."""
    for arm in plan.every_arm:
        stage = stages.stage(f"{arm.name}, seed {seed}", 2 * len(plan.trainings(arm, seed)))
        _train_arm(plan, run, arm, seed, root, stage)
    test: Data = splits.test.first(plan.scale.num_test)
    for arm in plan.arms:
        probed = seed == plan.seeds[0] and arm in plan.probed
        stage = stages.stage(f"{arm.name}, seed {seed}, attacked")
        measure.measured(run, plan, arm, seed, test, probed=probed, progress=stage)


def _train_arm(plan: Plan, run: Run, arm: Arm, seed: int, root: Path | None, progress: Progress = silent) -> None:
    """Leave the weights of an arm in `parts`, and those after each of its earlier trainings."""
    steps = plan.trainings(arm, seed)
    stages = Stages(progress, len(steps))
    for index, training in enumerate(steps, start=1):
        name = part_name(arm, seed) + ("" if index == len(steps) else f"-{index}")
        stage = stages.stage(f"part {index}") if len(steps) > 1 else progress
        train(training, run.path / "parts" / name, root, stage)


def _train_a(plan: Plan, run: Run, root: Path | None, stages: Stages) -> None:
    """Leave A's weights in `parts/A`: trained here, or as they come."""
    place, stage = run.path / "parts" / "A", stages.stage("network A", 2)
    if isinstance(plan.a, Training):
        train(plan.a, place, root, stage)
        return
    with Run.open(place, repr(plan.a)) as part:
        if not part.finished:
            model: Any = plan.a((3, 224, 224), 1000, torch.Generator().manual_seed(0))
            part.write_tensors("weights.safetensors", model.state_dict())
            part.finish()


def _halves(source: Source, classes: tuple[str, ...], seed: int) -> tuple[Source, Source]:
    """Tasks A and B: a random half of the classes each (Yosinski et al. 2014, section 3)."""
    if len(classes) < 4:
        raise UsageError(
            f"{source!r} has {len(classes)} classes. Expected at least 4, two for task A and two for B, or a network "
            "with pretrained weights, such as network=MobileNetV2(pretrained='torchvision')."
        )
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed)).tolist()
    half = len(classes) // 2
    first, second = (tuple(classes[index] for index in sorted(part)) for part in (order[:half], order[half:]))
    return Classes(source, first), Classes(source, second)


def _pretrained(root: Path | None) -> MobileNetV2:
    """MobileNetV2 with the weights in the data root, else those that torchvision downloads."""
    file = data_root(root) / WEIGHTS
    return MobileNetV2(pretrained=str(file.resolve()) if file.is_file() else "torchvision")


__all__ = ["Arm", "Transfer"]
