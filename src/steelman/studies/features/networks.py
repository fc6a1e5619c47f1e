"""The study's networks: standard and robust, trained at most once, and what they do under every perturbation."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.data import Data, Source
from steelman.errors import UsageError, choices
from steelman.evaluate import accuracy, strike
from steelman.models import Architecture
from steelman.progress import Progress
from steelman.recipe import Recipe
from steelman.runs import Run
from steelman.stats import Share, mcnemar
from steelman.studies.features.plan import Plan
from steelman.threats.groups import Groups
from steelman.train import Training, load_run, train
from steelman.trust import examine


@dataclass(frozen=True)
class Network:
    """A trained network and where it is kept."""

    name: str
    seed: int
    path: Path
    model: nn.Module


def trained(
    out: Path,
    name: str,
    seed: int,
    architecture: Architecture,
    data: Source,
    recipe: Recipe,
    root: Path | None,
    progress: Progress,
    *,
    num: int | None = None,
    start: str | None = None,
) -> Network:
    """The network of one training, a run in `out`/parts; done at most once."""
    path = out / "parts" / f"{name}-{seed}"
    train(Training(architecture, data, recipe, seed=seed, start=start, num=num), path, root, progress)
    return Network(name, seed, path, load_run(path).model)


def base_networks(
    out: Path, plan: Plan, data: Source, seed: int, root: Path | None, progress: Progress
) -> tuple[Network, Network]:
    """The standard and the robust network of one seed; published: the robust one starts from two epochs of SGD."""
    num = plan.scale.num_train
    shared = (seed, plan.architecture, data)
    standard = trained(out, "standard", *shared, plan.standard_recipe(), root, progress, num=num)
    start = None
    if plan.published:
        warm = trained(out, "warm", *shared, plan.warm_recipe(), root, progress, num=num)
        start = f"../{warm.path.name}"
    return standard, trained(out, "robust", *shared, plan.robust_recipe(), root, progress, num=num, start=start)


def check_layer(plan: Plan, data: Data) -> None:
    """See, before any training, that the networks have the layer that is to be inverted.

    Raises:
        UsageError: they have not.
    """
    model = plan.architecture(data.shape, len(data.classes), torch.Generator().manual_seed(0))
    layer, known = plan.layer or last_relu(model), [name for name, _ in model.named_modules() if name]
    if layer not in known:
        raise UsageError(choices(f"layer of {type(plan.architecture).__name__}", layer, known))


def last_relu(model: nn.Module) -> str:
    """The name of the last ReLU: the features that the head sees.

    Raises:
        UsageError: the network has none.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]
    if not names:
        raise UsageError("the network has no ReLU layer. Name the layer to invert: layer='features'.")
    return names[-1]


def group_shares(run: Run, network: Network, groups: Groups, test: Data, what: str) -> dict[str, Any]:
    """Accuracy under each perturbation, and under the worst of them for each image; measured at most once.

    Leaves `results/NAME-SEED-WHAT.json`, which is returned, and each image's outcome in `examples/`.
    """
    name = f"{network.name}-{network.seed}-{what}"
    if run.has(f"results/{name}.json"):
        return run.read_json(name)
    x, y = test.pixels(), test.labels
    members = [type(member).__name__ for member in groups.members]
    hits = torch.stack([accuracy(network.model, (groups.apply(number, x), y)) for number in range(len(members))])
    run.write_tensors(f"examples/{name}.safetensors", {"right": hits})
    found: dict[str, Any] = {
        "shares": [Share.of(mask).to_json() for mask in hits],
        "worst": Share.of(hits.all(0)).to_json(),
    }
    found["p"] = mcnemar(hits[0], hits[1]).p if len(hits) > 1 else 1.0
    run.write_json(name, found)
    return found


def attacked(run: Run, network: Network, plan: Plan, test: Data, progress: Progress) -> dict[str, Any]:
    """Robust accuracy under FGSM, PGD-40 and Reliable, with the trust checks of PGD-40; measured at most once."""
    name = f"{network.name}-{network.seed}-attacked"
    if run.has(f"results/{name}.json"):
        return run.read_json(name)
    found: dict[str, Any] = {}
    attacks = {"FGSM": FGSM(), "PGD-40": PGD(steps=40), "Reliable": plan.scale.reliable}
    for number, (label, attack) in enumerate(attacks.items()):
        progress(number, len(attacks), label)
        outcome = strike(network.model, test, attack, plan.threat, generator=torch.Generator().manual_seed(0))
        found[label] = outcome.robust.to_json()
        if label == "PGD-40":
            trust = examine(network.model, test, outcome, sample=plan.scale.num_probe)
            found["trust"] = dataclasses.asdict(trust)
    progress(len(attacks), len(attacks), "attacked")
    run.write_json(name, found)
    return found
