"""The study `finetune`: does fine-tuning on FGSM images make a classifier robust?

Original: comeeasy/FGSM_MNIST (2021), which follows A. Rosebrock's tutorials on FGSM. The attack: Goodfellow et al.
2015 (arXiv:1412.6572). Why one step is not enough: Kurakin et al. 2017 (arXiv:1611.01236), Wong et al. 2020
(arXiv:2001.03994).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from steelman.attacks import Attack
from steelman.attacks.pgd import PGD
from steelman.data import Data, Splits
from steelman.models import Architecture
from steelman.models.v_one import VOne
from steelman.progress import Progress, Stages, silent
from steelman.runs import Run
from steelman.studies import Study
from steelman.studies.finetune.front_end import Front, both_ways
from steelman.studies.finetune.measure import EachEpoch, measured
from steelman.studies.finetune.pages import write_page
from steelman.studies.finetune.plan import (
    FEWEST,
    SCALES,
    Fronts,
    Plan,
    Scale,
    arms,
    check,
    check_arms,
    distinct,
    fronts,
    label,
)
from steelman.studies.finetune.words import Arm
from steelman.threats import Linf
from steelman.train import Training, train

Sizes = TypeVar("Sizes", Scale, Fronts)


@dataclass(frozen=True, repr=False)
class Finetune(Study):
    """Train, attack by FGSM, fine-tune on adversarial images; natural, FGSM and PGD-40 accuracy at every epoch.

    Empty or None fields take the preset's and the scale's own choice.

    Fields:
        models: the networks.
        eps: the radius of the attack, L-inf; published 0.35, corrected the data's usual one.
        eps_list: the radii of the figure "accuracy over eps".
        against: the attacks that make the images of fine-tuning, one arm each.
        lr: of fine-tuning; published 1e-4.
        mix: the adversarial share of each fine-tuning batch.
        clip: whether adversarial pixels stay in [0, 1]; the original let them leave.
        seeds: how many.
        epochs: of training.
        finetune_epochs: of fine-tuning.
        fronts: networks behind a V1 front end, such as (VOne(),), fine-tuned against FGSM; the scale's own, none for
            "smoke" or where `models` are given.
        controls: more of them, trained and measured before fine-tuning only.

    Raises:
        UsageError: no eps, a mix outside [0, 1], no seed, or a front end where there is none.
    """

    models: tuple[Architecture, ...] = ()
    eps: float | None = None
    eps_list: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.35)
    lr: float | None = None
    against: tuple[Attack, ...] = ()
    mix: float | None = None
    clip: bool | None = None
    seeds: int | None = None
    epochs: int | None = None
    finetune_epochs: int | None = None
    fronts: tuple[Architecture, ...] | None = None
    controls: tuple[Architecture, ...] | None = None

    question: ClassVar[str] = "Does fine-tuning on FGSM images make a digit classifier robust?"
    original: ClassVar[str] = "comeeasy/FGSM_MNIST, 2021"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.eps_list, self.mix, self.seeds)
        plan = self.plan()
        check_arms(plan.models, plan.against)
        distinct((*plan.models, *plan.tuned, *plan.controls))

    def plan(self) -> Plan:
        """The study with every choice made."""
        scale, published = SCALES[self.scale], self.preset == "published"
        clip = (not published) if self.clip is None else self.clip
        usual = 0.35 if published else self.data.usual_eps
        own = None if self.models else scale.fronts
        given = {"epochs": self.epochs, "finetune_epochs": self.finetune_epochs}
        scale = _changed(replace(scale, fronts=_changed(scale.fronts or FEWEST, **given)), **given)
        return Plan(
            scale=scale,
            models=self.models or scale.models,
            against=self.against or arms(self.preset),
            threat=Linf(usual if self.eps is None else self.eps, clip=clip),
            eps_list=self.eps_list,
            mix=1.0 if self.mix is None else self.mix,
            lr=self.lr if self.lr is not None else 1e-4 if published else 1e-3,
            seeds=tuple(range(self.seed, self.seed + (self.seeds or scale.seeds))),
            published=published,
            tuned=fronts(self.fronts, own.tuned if own else (), published=published),
            controls=fronts(self.controls, own.controls if own else (), published=published),
        )

    def run(  # noqa: D102
        self, out: Path, root: Path | None = None, progress: Progress = silent, *, command: str = ""
    ) -> None:
        plan = self.plan()
        splits = self.data.splits(root, progress)
        networks = [(architecture, seed) for architecture in plan.models for seed in plan.seeds]
        weight = len(networks) * (2 + sum(1 + _weight(attack) for attack in plan.against))
        stages = Stages(progress, weight + 6 * len(plan.tuned) + 3 * len(plan.controls))
        with Run.open(out, repr(self), splits.digest, command=command) as run:
            if not run.finished:
                work = _Work(self, run, splits, root, stages)
                found = [arm for network in networks for arm in work.arms(plan, *network)]
                behind = [work.front(plan, one) for one in (*plan.tuned, *plan.controls)]
                write_page(self, plan, run, found, behind, splits, command)
                run.finish()


@dataclass(frozen=True, eq=False)
class _Work:
    """What training and measuring one network after the other needs; parts that are on disk are not computed again."""

    study: Finetune
    run: Run
    splits: Splits
    root: Path | None
    stages: Stages

    def arms(self, plan: Plan, architecture: Architecture, seed: int) -> list[Arm]:
        """Train one network, fine-tune it in every arm, and measure."""
        before = self.before(plan, architecture, seed)
        return [self.arm(plan, architecture, seed, attack, before) for attack in plan.against]

    def before(self, plan: Plan, architecture: Architecture, seed: int) -> dict[str, Any]:
        """Train one network and measure it."""
        training, base = self.base(plan, architecture, seed)
        name, words = label(architecture), f"{label(architecture)}, seed {seed}"
        train(training, base, self.root, self.stages.stage(words))
        stage, curve = self.stages.stage(f"{words}, before fine-tuning"), self.curve(plan, architecture, seed)
        return measured(self.run, plan, base, self.test(plan), f"{name}-{seed}-before", curve=curve, progress=stage)

    def arm(self, plan: Plan, architecture: Architecture, seed: int, attack: Attack, before: dict[str, Any]) -> Arm:
        """Fine-tune a trained network against one attack, and measure."""
        training, base = self.base(plan, architecture, seed)
        name, against = label(architecture), type(attack).__name__
        words, test = f"{name}, seed {seed}, {against} images", self.test(plan)
        tuning = replace(training, recipe=plan.finetune_recipe(attack), start=f"../{base.name}")
        part = self.run.path / "parts" / f"{name}-{seed}-{against}"
        stage = self.stages.stage(words, _weight(attack))
        tuned = train(tuning, part, self.root, stage, on_epoch=EachEpoch(plan, test))
        stage, curve = self.stages.stage(f"{words}, after"), self.curve(plan, architecture, seed)
        after = measured(self.run, plan, part, test, f"{part.name}-after", curve=curve, progress=stage)
        chance = float(test.labels.bincount().max()) / len(test)
        return Arm(name, seed, attack, tuple(tuned.read_json("history")["rows"]), before, after, chance)

    def front(self, plan: Plan, architecture: VOne) -> Front:
        """Train a network behind a front end, attack it both ways, and fine-tune it where the plan says so."""
        behind, seed, name = plan.behind(), plan.seeds[0], label(architecture)
        before = self.before(behind, architecture, seed)
        twin = next((one for one in plan.models if one == architecture.backend), None)
        bases = [self.base(behind, one, seed)[1] for one in (architecture, twin) if one]
        stage, test = self.stages.stage(f"{name}, both derivatives"), self.test(behind)
        plain = bases[1] if twin else None
        ways = both_ways(self.run, behind, bases[0], plain, test, f"{name}-{seed}-both-ways", stage)
        against = behind.against if architecture in plan.tuned else ()
        arms = tuple(self.arm(behind, architecture, seed, attack, before) for attack in against)
        return Front(name, architecture, before, ways, arms)

    def base(self, plan: Plan, architecture: Architecture, seed: int) -> tuple[Training, Path]:
        """The training of a network, and where it is kept."""
        recipe = plan.train_recipe(architecture)
        training = Training(architecture, self.study.data, recipe, seed=seed, num=plan.scale.num_train)
        return training, self.run.path / "parts" / f"{label(architecture)}-{seed}-base"

    def test(self, plan: Plan) -> Data:
        """The images on which this plan's networks are judged."""
        return self.splits.test.first(plan.scale.num_test)

    def curve(self, plan: Plan, architecture: Architecture, seed: int) -> bool:
        """Whether accuracy over eps and the trust checks are worth their time: the first seed, no front end."""
        return seed == plan.seeds[0] and not isinstance(architecture, VOne)


def _weight(attack: Attack) -> int:
    """How many times as long as training fine-tuning against an attack takes, roughly."""
    return 6 if isinstance(attack, PGD) else 2


def _changed(scale: Sizes, **changes: int | None) -> Sizes:
    return replace(scale, **{name: value for name, value in changes.items() if value is not None})
