"""The study `features`: what robust and non-robust networks see, reconstructed, cleaned and learned from again.

Original: xziyue/robust_mnist_feature_py (2019), after Ilyas et al. 2019, Adversarial examples are not bugs, they are
features (arXiv:1905.02175). "Robust" there means robust to four corruptions, not to gradients: the study measures both.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from steelman.defences import Objective
from steelman.features import Inversion
from steelman.models import Architecture
from steelman.progress import Progress, Stages, silent
from steelman.runs import Run
from steelman.studies import Study
from steelman.studies.features.collect import blind, distances, reconstructions, retrained, write_sets
from steelman.studies.features.making import FeaturesReadable, FeaturesSynthesis
from steelman.studies.features.networks import attacked, base_networks, check_layer, group_shares
from steelman.studies.features.pages import Measured, write_page
from steelman.studies.features.plan import Plan, Start, check, planned
from steelman.studies.features.telling import FeaturesBlind
from steelman.studies.features.why_lines import FeaturesLines
from steelman.threats import Linf

__all__ = ["Features", "FeaturesBlind", "FeaturesLines", "FeaturesReadable", "FeaturesSynthesis"]


@dataclass(frozen=True, repr=False)
class Features(Study):
    """Train a standard and a worst-of-group robust net, invert both, and learn anew from what comes out.

    None fields take the preset's and the scale's own choice.

    Fields:
        architecture: of both networks.
        layer: whose activations are matched; "" for the last ReLU.
        objective: of the robust network, such as Adversarial(PGD(), Linf(0.3)); None for the worst group.
        inversion: how activations are matched.
        tolerance: the relative residual at which an image has converged.
        start: where inversion starts: random training images as published, noise, or grey.
        denoising: the opening of the bright pixels, or principal components.
        eps: of FGSM, PGD-40 and Reliable, L-inf; None for the data's usual one.
        num: how many images are reconstructed.
        seeds: how many networks of each kind, and retrainings on each set.

    Raises:
        UsageError: no seed, fewer than 20 images, or a negative tolerance.
    """

    architecture: Architecture | None = None
    layer: str = ""
    objective: Objective | None = None
    inversion: Inversion | None = None
    tolerance: float | None = None
    start: Start = "images"
    denoising: Literal["opening", "components"] = "opening"
    eps: float | None = None
    num: int | None = None
    seeds: int | None = None

    question: ClassVar[str] = "What do robust and non-robust networks see in a digit, and can it be learned from?"
    original: ClassVar[str] = "xziyue/robust_mnist_feature_py, 2019"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.seeds, self.num, self.tolerance)

    def plan(self) -> Plan:
        """The study with every choice made."""
        plan = planned(self)
        given: dict[str, Any] = {"layer": self.layer, "start": self.start, "denoising": self.denoising}
        given |= {"objective": self.objective, "inversion": self.inversion, "tolerance": self.tolerance}
        given |= {"architecture": self.architecture, "retrained": self.architecture}
        if self.num is not None:
            given["scale"] = replace(plan.scale, num_features=self.num)
        if self.eps is not None:
            given["threat"] = Linf(self.eps)
        if self.seeds is not None:
            given["seeds"] = tuple(range(self.seed, self.seed + self.seeds))
        return replace(plan, **{name: value for name, value in given.items() if value is not None})

    def run(  # noqa: D102
        self, out: Path, root: Path | None = None, progress: Progress = silent, *, command: str = ""
    ) -> None:
        plan = self.plan()
        splits = self.data.splits(root, progress)
        check_layer(plan, splits.train)
        with Run.open(out, repr(self), splits.digest, command=command) as run:
            if not run.finished:
                num_sets = 5 if plan.published else 7
                stages = Stages(progress, 8 * len(plan.seeds) + 6 + 2 * num_sets + 2)
                test = splits.test.first(plan.scale.num_test)
                few = splits.test.first(plan.scale.num_attacked)
                pairs = []
                for seed in plan.seeds:
                    progress_of_seed = stages.stage(f"networks, seed {seed}", 6)
                    pairs.append(base_networks(out, plan, self.data, seed, root, progress_of_seed))
                standard, robust = pairs[0]
                shares = [
                    {one.name: group_shares(run, one, plan.groups, test, "groups") for one in pair} for pair in pairs
                ]
                held = {one.name: group_shares(run, one, plan.held_out, test, "held-out") for one in pairs[0]}
                hits = {
                    one.name: attacked(run, one, plan, few, stages.stage(f"attacking the {one.name} net"))
                    for one in pairs[0]
                }
                made = reconstructions(run, plan, (standard, robust), splits, stages)
                sets = write_sets(run, plan, made, standard, splits)
                again = retrained(run, plan, tuple(sets), test, stages)
                apart = blind(run, plan, made, stages.stage("blind classifiers", 2))
                far = distances(run, made, sets, self.seed)
                found = Measured(tuple(shares), held, hits, again, tuple(apart), far)
                write_page(self, plan, run, found, made, splits, command)
                run.finish()
