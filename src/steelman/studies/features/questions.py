"""What the four open questions of study `features` share: networks, the run, and the page."""

import datetime
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from steelman.attacks.pgd import PGD
from steelman.data import Data, Splits
from steelman.defences.adversarial import Adversarial
from steelman.errors import UsageError
from steelman.models.basic_cnn import BasicCNN
from steelman.page import Item, Page, Section
from steelman.progress import Progress, Stages, silent
from steelman.recipe import Recipe
from steelman.runs import Run, environment
from steelman.studies import Study
from steelman.studies.features.networks import Network, base_networks, trained
from steelman.studies.features.plan import Plan, planned
from steelman.threats import Linf
from steelman.train import load_run

JUDGE_SEED = 1_000  # away from the seeds of the networks that are judged


@dataclass(frozen=True)
class Answer:
    """What a question's measurements say."""

    headline: str
    findings: tuple[str, ...]
    text: str
    items: tuple[Item, ...]


@dataclass(frozen=True, repr=False)
class Question(Study):
    """An open question of study `features`, answered by measurements.

    Fields:
        networks: a run directory of study `features` whose networks are used; None trains them here.

    Raises:
        UsageError: a run directory that holds no networks.
    """

    networks: str | None = None

    def plan(self) -> Plan:
        """The networks and scale of study `features`."""
        return planned(self)

    def answer(self, run: Run, plan: Plan, splits: Splits, root: Path | None, stages: Stages) -> Answer:
        """Do what is not done yet, and say what came out."""
        raise NotImplementedError

    def run(  # noqa: D102
        self, out: Path, root: Path | None = None, progress: Progress = silent, *, command: str = ""
    ) -> None:
        plan, splits = self.plan(), self.data.splits(root, progress)
        with Run.open(out, repr(self), splits.digest, command=command) as run:
            if not run.finished:
                found = self.answer(run, plan, splits, root, Stages(progress, 24))
                page = Page(
                    title=f"{type(self).__name__} on {splits.test.name.split('/')[0]}",
                    question=self.question,
                    headline=found.headline,
                    findings=found.findings,
                    sections=(Section("Measured", (found.text,), found.items),),
                    rerun=command or f'steelman study "{self!r}" --out {run.path}',
                    facts=self._facts(plan, splits),
                )
                page.save(run.path / "results" / "page.json")
                run.finish()

    def base(self, run: Run, plan: Plan, root: Path | None, stages: Stages) -> tuple[Network, Network]:
        """The standard and the worst-of-group robust network.

        Raises:
            UsageError: `networks` names a directory that holds none, or those of other data or scale.
        """
        if self.networks is None:
            return base_networks(run.path, plan, self.data, self.seed, root, stages.stage("networks", 8))
        found: list[Network] = []
        for name in ("standard", "robust"):
            path = Path(self.networks) / "parts" / f"{name}-{self.seed}"
            if not (path / "weights.safetensors").is_file():
                raise UsageError(
                    f"{self.networks} holds no {path.name}. Give networks= a finished run of study features with seed "
                    f"{self.seed}."
                )
            made = load_run(path)
            has, wanted = made.training, (plan.architecture, self.data, plan.scale.num_train)
            if (has.architecture, has.data, has.num) != wanted:
                raise UsageError(
                    f"{path} is {has.architecture!r} on {has.num or 'all'} images of {has.data!r}, this study of "
                    f"{wanted[0]!r} on {wanted[2] or 'all'} of {wanted[1]!r}. Give networks= a run of study features "
                    "with the same data, scale and preset."
                )
            found.append(Network(name, self.seed, path, made.model))
        return found[0], found[1]

    def three(self, run: Run, plan: Plan, root: Path | None, stages: Stages) -> tuple[Network, ...]:
        """The standard net, the worst-of-group robust one, and one that is robust to gradients: trained on PGD."""
        objective = Adversarial(PGD(steps=7), Linf(self.data.usual_eps))
        recipe = replace(plan.standard_recipe(), objective=objective)
        progress = stages.stage("the PGD-robust net", 8)
        num = plan.scale.num_train
        pgd = trained(run.path, "pgd", self.seed, plan.architecture, self.data, recipe, root, progress, num=num)
        return (*self.base(run, plan, root, stages), pgd)

    def judge(self, run: Run, plan: Plan, root: Path | None, stages: Stages) -> Network:
        """A net of another architecture and seed, trained on clean images: it judges what the others made."""
        seed, num = self.seed + JUDGE_SEED, plan.scale.num_train
        recipe, progress = Recipe(epochs=plan.scale.epochs), stages.stage("the judge", 2)
        return trained(run.path, "judge", seed, BasicCNN(), self.data, recipe, root, progress, num=num)

    def _facts(self, plan: Plan, splits: Splits) -> dict[str, str]:
        env = environment()
        return {
            "data": splits.test.name,
            "networks": self.networks or f"{plan.architecture!r}, trained here",
            "preset and scale": f"{self.preset}, {self.scale}",
            "seed": str(self.seed),
            "machine": f"{env['processor']}, {env['threads']} threads, torch {env['torch']}",
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        }


def of_each_class(data: Data, num: int) -> Data:
    """The first `num` images of every class."""
    rows = [(data.labels == label).nonzero().squeeze(1)[:num] for label in range(len(data.classes))]
    return data.take(torch.cat(rows))
