"""The study `finetune`: does fine-tuning on FGSM images make a classifier robust?

Original: comeeasy/FGSM_MNIST (2021), which follows A. Rosebrock's tutorials on FGSM. The attack: Goodfellow et al.
2015 (arXiv:1412.6572). Why one step is not enough: Kurakin et al. 2017 (arXiv:1611.01236), Wong et al. 2020
(arXiv:2001.03994).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from steelman.attacks import Attack
from steelman.attacks.pgd import PGD
from steelman.data import Splits
from steelman.models import Architecture
from steelman.progress import Progress, Stages, silent
from steelman.runs import Run
from steelman.studies import Study
from steelman.studies.finetune.measure import EachEpoch, measured
from steelman.studies.finetune.pages import Arm, write_page
from steelman.studies.finetune.plan import SCALES, Plan, Scale, arms, check
from steelman.threats import Linf
from steelman.train import Training, train


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

    Raises:
        UsageError: no eps, a mix outside [0, 1], or no seed.
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

    question: ClassVar[str] = "Does fine-tuning on FGSM images make a digit classifier robust?"
    original: ClassVar[str] = "comeeasy/FGSM_MNIST, 2021"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.eps_list, self.mix, self.seeds)

    def plan(self) -> Plan:
        """The study with every choice made."""
        scale, published = SCALES[self.scale], self.preset == "published"
        scale = _changed(scale, epochs=self.epochs, finetune_epochs=self.finetune_epochs)
        clip = (not published) if self.clip is None else self.clip
        usual = 0.35 if published else self.data.usual_eps
        return Plan(
            scale=scale,
            models=self.models or scale.models,
            against=self.against or arms(self.preset),
            threat=Linf(usual if self.eps is None else self.eps, clip=clip),
            eps_list=self.eps_list,
            mix=1.0 if self.mix is None else self.mix,
            lr=self.lr or (1e-4 if published else 1e-3),
            seeds=tuple(range(self.seed, self.seed + (self.seeds or scale.seeds))),
            published=published,
        )

    def run(  # noqa: D102
        self, out: Path, root: Path | None = None, progress: Progress = silent, *, command: str = ""
    ) -> None:
        plan = self.plan()
        splits = self.data.splits(root, progress)
        networks = [(architecture, seed) for architecture in plan.models for seed in plan.seeds]
        stages = Stages(progress, len(networks) * (2 + sum(1 + _weight(attack) for attack in plan.against)))
        with Run.open(out, repr(self), splits.digest, command=command) as run:
            if not run.finished:
                found = [arm for one in networks for arm in _one(self, plan, run, splits, *one, root, stages)]
                write_page(self, plan, run, found, splits, command)
                run.finish()


def _one(
    study: Finetune,
    plan: Plan,
    run: Run,
    splits: Splits,
    architecture: Architecture,
    seed: int,
    root: Path | None,
    stages: Stages,
) -> list[Arm]:
    """Train one network, fine-tune it in every arm, and measure; parts that are on disk are not computed again."""
    name, first = type(architecture).__name__, seed == plan.seeds[0]
    words, test = f"{name}, seed {seed}", splits.test.first(plan.scale.num_test)
    base = run.path / "parts" / f"{name}-{seed}-base"
    training = Training(architecture, study.data, plan.train_recipe(architecture), seed=seed, num=plan.scale.num_train)
    train(training, base, root, stages.stage(words))
    stage = stages.stage(f"{words}, before fine-tuning")
    before = measured(run, plan, base, test, f"{name}-{seed}-before", curve=first, progress=stage)
    found: list[Arm] = []
    for attack in plan.against:
        arm, on = f"{name}-{seed}-{type(attack).__name__}", f"{words}, {type(attack).__name__} images"
        tuning = replace(training, recipe=plan.finetune_recipe(attack), start=f"../{base.name}")
        part = run.path / "parts" / arm
        tuned = train(tuning, part, root, stages.stage(on, _weight(attack)), on_epoch=EachEpoch(plan, test))
        stage = stages.stage(f"{on}, after")
        after = measured(run, plan, part, test, f"{arm}-after", curve=first, progress=stage)
        found.append(Arm(name, seed, attack, tuple(tuned.read_json("history")["rows"]), before, after))
    return found


def _weight(attack: Attack) -> int:
    """How many times as long as training fine-tuning against an attack takes, roughly."""
    return 6 if isinstance(attack, PGD) else 2


def _changed(scale: Scale, **changes: int | None) -> Scale:
    return replace(scale, **{name: value for name, value in changes.items() if value is not None})
