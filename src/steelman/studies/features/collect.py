"""The study's feature sets: reconstructed, cleaned, mislabelled; retraining on each; the blind classifier."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from steelman.data import Data, Splits
from steelman.data.arrays import Arrays
from steelman.evaluate import accuracy
from steelman.features.denoising import denoised
from steelman.features.distances import of_pairs, to_originals
from steelman.features.inversion import Inverted, invert
from steelman.features.sets import as_data, mislabelled, reconstruct, write_by_class, write_set
from steelman.models.blind_cnn import BlindCNN
from steelman.progress import Progress, Stages
from steelman.random_models import fractional
from steelman.runs import Run
from steelman.studies.features.networks import Network, group_shares, last_relu, trained
from steelman.studies.features.plan import Plan
from steelman.threats import L2

MISLABELLING_THREAT = L2(2.0)
NUM_PAIRS = 5_000
_FEWEST = 3  # images of a class: one for each split


@dataclass(frozen=True)
class Reconstructed:
    """The images under reconstruction, and what became of them under each network."""

    originals: Data
    found: dict[str, Inverted]  # by the features' name


def reconstructions(
    run: Run, plan: Plan, networks: tuple[Network, Network], splits: Splits, stages: Stages
) -> Reconstructed:
    """The first training images inverted under the standard net (non-robust features) and the robust one.

    Published: those of val follow those of train, because the original knew no val and inverted all 60,000.
    """
    available = splits.train.followed_by(splits.val) if plan.published else splits.train
    originals = available.first(plan.scale.num_features)
    x = originals.pixels()
    found: dict[str, Inverted] = {}
    for name, network in zip(("nonrobust", "robust"), networks, strict=True):
        layer = plan.layer or last_relu(network.model)
        found[name] = reconstruct(
            run,
            name,
            network.model,
            layer,
            x,
            _starts(plan, splits, x),
            plan.inversion,
            tolerance=plan.tolerance,
            seed=plan.seeds[0],
            progress=stages.stage(f"{name} features", 3),
        )
    return Reconstructed(originals, found)


def write_sets(run: Run, plan: Plan, made: Reconstructed, standard: Network, splits: Splits) -> dict[str, Data]:
    """Every set, image for image as the originals; written at most once.

    Leaves `sets/NAME.safetensors`, split for a training, and the whole set per class as `sets/NAME/x_CLASS.npy`.
    """
    sets = {"original": made.originals}
    labels, classes = made.originals.labels, made.originals.classes
    for name in ("robust", "nonrobust"):
        x = made.found[name].x
        sets[name] = as_data(x, labels, classes, name)
        sets[f"{name}-denoised"] = as_data(denoised(x, plan.denoising), labels, classes, f"{name}-denoised")
    if not plan.published:
        sets |= _mislabelled_sets(run, plan, made, standard)
    for name, whole in sets.items():
        if not run.has(f"sets/{name}/y.npy"):
            write_set(run.path / "sets" / f"{name}.safetensors", _for_training(plan, whole, splits))
            write_by_class(run.path / "sets" / name, whole)
    return sets


def _for_training(plan: Plan, whole: Data, splits: Splits) -> Splits:
    """What a retraining sees: the set, and real images to choose the epoch on.

    Published: a random tenth of the set itself is kept apart, as in the original, and chooses nothing.
    """
    test = splits.test.first(plan.scale.num_test)
    if not plan.published:
        return Splits(whole, splits.val.first(plan.scale.num_val), test)
    order = torch.randperm(len(whole), generator=Generator().manual_seed(plan.seeds[0]))
    num = len(whole) // 10
    return Splits(whole.take(order[num:]), whole.take(order[:num]), test)


def retrained(
    run: Run, plan: Plan, names: tuple[str, ...], test: Data, stages: Stages
) -> dict[str, tuple[dict[str, Any], ...]]:
    """For each set and seed, a new network trained on the set alone, and its accuracy under each perturbation."""
    found: dict[str, tuple[dict[str, Any], ...]] = {}
    for name in names:
        progress, rows = stages.stage(f"retraining on {name}", 2), []
        for seed in plan.seeds:
            data = Arrays(f"sets/{name}.safetensors")
            network = trained(
                run.path, f"on-{name}", seed, plan.retrained, data, plan.retrain_recipe(), run.path, progress
            )
            rows.append(group_shares(run, network, plan.groups, test, "groups"))
        found[name] = tuple(rows)
    return found


def distances(run: Run, made: Reconstructed, sets: dict[str, Data], seed: int) -> dict[str, Tensor]:
    """L2 distances to the originals and between random pairs of a set, under `examples/distances.safetensors`."""
    file = "examples/distances.safetensors"
    if not run.has(file):
        values: dict[str, Tensor] = {}
        originals = made.originals.pixels()
        for name in ("original", "robust", "nonrobust", "robust-denoised", "nonrobust-denoised"):
            x = sets[name].pixels()
            values[f"pairs {name}"] = of_pairs(x, NUM_PAIRS, Generator().manual_seed(seed))
            if name != "original":
                values[f"to original {name}"] = to_originals(x, originals)
        run.write_tensors(file, values)
    return run.read_tensors(file)


def blind(run: Run, plan: Plan, made: Reconstructed, progress: Progress) -> list[dict[str, Any]]:
    """A net for each class that tells its robust features from its non-robust ones: a row each, and its own features.

    A class of fewer than three images cannot be split and is left out.
    Images whose robust and non-robust features are compared stay in one split: an image cannot give itself away.
    """
    rows: list[dict[str, Any]] = []
    classes = made.originals.classes
    for label, name in enumerate(classes):
        progress(label, len(classes), f"telling robust from non-robust, class {name}")
        if int((made.originals.labels == label).sum()) < _FEWEST:
            continue
        if not run.has(f"results/blind-{label}.json"):
            _one_blind(run, plan, made, label)
        rows.append({"class": name, "label": label, **run.read_json(f"blind-{label}")})
    progress(len(classes), len(classes), "told apart")
    return rows


def _one_blind(run: Run, plan: Plan, made: Reconstructed, label: int) -> None:
    mine = (made.originals.labels == label).nonzero().squeeze(1)
    order = mine[torch.randperm(len(mine), generator=Generator().manual_seed(label))]
    num = max(1, len(order) // 5)
    parts = (order[2 * num :], order[num : 2 * num], order[:num])  # train, val, test
    x = {name: found.x for name, found in made.found.items()}
    splits = Splits(*(_told(x, part) for part in parts))
    name = f"blind-{label}"
    write_set(run.path / "sets" / f"{name}.safetensors", splits)
    data = Arrays(f"sets/{name}.safetensors")

    def quiet(done: int, total: int, words: str) -> None:
        """The classes are told by the caller."""

    network = trained(run.path, name, plan.seeds[0], BlindCNN(), data, plan.blind_recipe(), run.path, quiet)
    both = accuracy(network.model, splits.test).float().view(2, -1)  # both versions of an image are one case
    share = fractional(both.mean(0))
    shown = splits.test.pixels(torch.tensor([0, num]))  # of one image, the non-robust features and the robust ones
    noise = torch.empty_like(shown).normal_(0.5, 0.1, generator=Generator().manual_seed(label)).clamp(0, 1)
    inverted = invert(network.model, last_relu(network.model), shown, noise, plan.inversion)
    run.write_tensors(f"examples/{name}.safetensors", {"x": torch.cat((shown, inverted.x))})
    run.write_json(name, {"accuracy": share.to_json(), "relative": inverted.relative.tolist()})


def _told(x: dict[str, Tensor], rows: Tensor) -> Data:
    """Class 0 the non-robust features of these images, class 1 the robust ones."""
    images = torch.cat([x[name][rows] for name in ("nonrobust", "robust")])
    labels = torch.arange(2).repeat_interleave(len(rows))
    return as_data(images, labels, ("nonrobust", "robust"), "blind")


def _starts(plan: Plan, splits: Splits, x: Tensor) -> Tensor:
    """The images from which the starts are drawn."""
    if plan.start == "images":
        return splits.train.pixels()
    if plan.start == "grey":
        return torch.full_like(x[:1], 0.5)
    generator = Generator().manual_seed(plan.seeds[0])
    return torch.empty_like(x).normal_(0.5, 0.1, generator=generator).clamp(0, 1)


def _mislabelled_sets(run: Run, plan: Plan, made: Reconstructed, standard: Network) -> dict[str, Data]:
    x, y, classes = made.originals.pixels(), made.originals.labels, made.originals.classes
    sets: dict[str, Data] = {}
    for name, kind in (("d-rand", "random"), ("d-det", "next")):
        file = f"examples/{name}.safetensors"
        if not run.has(file):
            images, labels = mislabelled(
                standard.model,
                x,
                y,
                "random" if kind == "random" else "next",
                plan.scale.mislabelling,
                MISLABELLING_THREAT,
                classes=len(classes),
                generator=Generator().manual_seed(0),
            )
            run.write_tensors(file, {"x": images, "y": labels})
        tensors = run.read_tensors(file)
        sets[name] = as_data(tensors["x"], tensors["y"], classes, name)
    return sets
