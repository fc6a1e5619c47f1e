"""The study `resistance`: how far does each image hold, and can that detect and correct errors?

Original: maxdinech/mnist-attack (2017), on MNIST and Fashion-MNIST. Its "infinite resistance" of half of the images is
a softmax that is exactly 1.0 in float32: masked gradients, Athalye et al. 2018 (arXiv:1802.00420). Minimal-norm
attacks: Rony et al. 2019 (arXiv:1811.09600), Pintor et al. 2021 (arXiv:2102.12827).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from steelman.data import Data, Splits
from steelman.models import Architecture
from steelman.models.alexnet import AlexNetSmall
from steelman.progress import Progress, Stages, silent
from steelman.runs import Run
from steelman.studies import Study
from steelman.studies.resistance import detect, discriminate, minimal, saturation, verdicts
from steelman.studies.resistance.done import Done
from steelman.studies.resistance.held import holding
from steelman.studies.resistance.pages import write_page
from steelman.studies.resistance.plan import REPORTED, SCALES, Plan, check, name_of
from steelman.studies.resistance.work import counted
from steelman.studies.resistance.zoo import Network, trained


@dataclass(frozen=True, repr=False)
class Resistance(Study):
    """Train a zoo, attack it with minimal norm, and use how far an image holds to find and correct errors.

    Empty or None fields take the scale's own choice.

    Fields:
        models: the zoo.
        subject: the network whose images are studied; it joins the zoo.
        p: the norms of the attacks on the zoo.
        num: test images whose resistance is measured.
        steps: of the attacks B and C.
        epochs: of training.

    Raises:
        UsageError: two networks of one name, a p below 1, fewer than 50 steps, or no image.
    """

    models: tuple[Architecture, ...] = ()
    subject: Architecture = AlexNetSmall()  # noqa: RUF009 (frozen)
    p: tuple[float, ...] = ()
    num: int | None = None
    steps: int | None = None
    epochs: int | None = None

    question: ClassVar[str] = "How far does each image hold, and can that detect and correct errors?"
    original: ClassVar[str] = "maxdinech/mnist-attack, 2017"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.plan().models, self.p, self.steps, self.num)

    def plan(self) -> Plan:
        """The study with every choice made."""
        scale = SCALES[self.scale]
        changes = {"num_test": self.num, "steps": self.steps, "epochs": self.epochs}
        scale = replace(scale, **{name: value for name, value in changes.items() if value is not None})
        models = self.models or scale.models
        return Plan(
            scale=scale,
            models=models if self.subject in models else (*models, self.subject),
            subject=self.subject,
            p=tuple(dict.fromkeys((2.0, *(self.p or scale.p)))),
            seed=self.seed,
            published=self.preset == "published",
        )

    def run(  # noqa: D102
        self, out: Path, root: Path | None = None, progress: Progress = silent, *, command: str = ""
    ) -> None:
        plan = self.plan()
        splits = self.data.splits(root, progress)
        with Run.open(out, repr(self), splits.digest, command=command) as run:
            if not run.finished:
                done = _everything(self, plan, run, splits, root, progress)
                write_page(self, done, command)
                run.finish()


def _everything(study: Resistance, plan: Plan, run: Run, splits: Splits, root: Path | None, progress: Progress) -> Done:
    """All that is computed; parts that are on disk are not computed again."""
    work = counted(plan, splits)
    stages = Stages(progress, work.total)
    zoo: list[Network] = []
    for architecture, weight in zip(plan.models, work.zoo, strict=True):
        told = stages.stage(name_of(architecture), weight)
        zoo.append(trained(run, plan, architecture, study.data, splits, root, told))
    few = minimal.attacked(plan, splits)
    rows = {one.name: minimal.measured(run, plan, one, few, stages.stage(one.name, work.attacks)) for one in zoo}
    subject = next(one for one in zoo if one.name == name_of(plan.subject))
    parts: dict[str, tuple[Data, Any]] = {}
    for split, data, num, weight in (
        ("test", splits.test, plan.scale.num_test, work.test),
        ("val", splits.val, plan.scale.num_val, work.val),
    ):
        some = data.first(num)
        told = stages.stage(f"{subject.name}, {split} images", weight)
        label = subject.predicted(split)[: len(some)]
        parts[split] = some, holding(run, plan, subject.model, some, label, split, told)
    test, found = parts["test"]
    judged = {split: verdicts.judged(subject, zoo, split, *part) for split, part in parts.items()}
    finding = saturation.measured(run, plan, subject, test, found, stages.stage("infinite resistance", work.finding))
    told = stages.stage("discriminators", work.discriminators)
    discriminators = discriminate.measured(run, plan, subject, splits, found, judged["test"].wrong, told)
    told = stages.stage("adversarial images", work.detection)
    detection = detect.measured(run, plan, subject, splits, study.data.usual_eps, told)
    trust = minimal.panel(run, plan, subject, few)
    return Done(
        plan=plan,
        run=run,
        splits=splits,
        zoo=zoo,
        subject=subject,
        attacks=rows,
        test=test,
        held=found,
        judged=judged["test"],
        val=judged["val"],
        reported=REPORTED.get(type(study.data).__name__) if plan.subject == AlexNetSmall() else None,
        saturation=finding,
        discriminator=discriminators,
        detection=detection,
        trust=trust,
        lines=minimal.along_lines(run, subject),
    )
