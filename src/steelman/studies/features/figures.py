"""The study's figures: sample strip, grids of features for each class, histograms."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steelman.data import Splits
from steelman.features.distances import shared_bins, shares
from steelman.page import Grid, Item, Lines, Panel, Series
from steelman.runs import Run
from steelman.studies.features.plan import GROUPS, Plan
from steelman.threats.groups import ORIGINAL

if TYPE_CHECKING:
    from steelman.studies.features.collect import Reconstructed

SIDE = 5  # images of each class in a grid
GRID_SETS = (
    ("original", "original"),
    ("robust", "robust"),
    ("nonrobust", "non-robust"),
    ("robust-denoised", "robust, denoised"),
    ("nonrobust-denoised", "non-robust, denoised"),
)


def strips(run: Run, plan: Plan, splits: Splits) -> tuple[Grid, Grid]:
    """One test image of each of three classes under every perturbation: those that are trained on, and the others."""
    rows = [int((splits.test.labels == label).nonzero()[0]) for label in (7 % len(splits.test.classes), 0, 1)]
    x = splits.test.pixels(torch.tensor(rows))
    grids: list[Grid] = []
    for name, groups, words in (
        ("groups", plan.groups, "each perturbation"),
        ("held-out", plan.held_out, "perturbations that no net was trained on"),
    ):
        file = f"examples/strip-{name}.safetensors"
        run.write_tensors(file, {"x": groups.candidates(x).transpose(0, 1).flatten(0, 1).contiguous()})
        known = GROUPS if groups.members == ORIGINAL else ()
        heads = known or tuple(type(member).__name__.lower() for member in groups.members)
        grids.append(Grid(f"strip-{name}", f"Three test images under {words}.", file, len(heads), heads=heads))
    return grids[0], grids[1]


def class_grids(run: Run, made: "Reconstructed") -> tuple[Grid, ...]:
    """For each set five images of each class, a column a class: the same images in the same places of every grid."""
    labels, classes = made.originals.labels, made.originals.classes
    members = [(labels == label).nonzero().squeeze(1)[:SIDE] for label in range(len(classes))]
    grids: list[Grid] = []
    for name, words in GRID_SETS:
        x = _set_pixels(run, name)
        columns = [torch.cat((x[rows], x.new_zeros((SIDE - len(rows), *x.shape[1:])))) for rows in members]
        file = f"examples/classes-{name}.safetensors"
        run.write_tensors(file, {"x": torch.stack(columns, dim=1).flatten(0, 1).contiguous()})
        caption = f"{words.capitalize()}: the first five training images of each class."
        grids.append(Grid(f"classes-{name}", caption, file, len(classes), heads=classes))
    return tuple(grids)


def residual_histogram(made: "Reconstructed") -> Lines:
    """How well the features were matched."""
    samples = {
        "non-robust features": made.found["nonrobust"].relative,
        "robust features": made.found["robust"].relative,
    }
    caption = "Relative error of the reconstructed features."
    return histogram("residuals", caption, "distance to the wanted features / their length", samples)


def histogram(name: str, caption: str, x_label: str, samples: dict[str, Tensor]) -> Lines:
    """Histograms with shared bins."""
    edges = shared_bins(list(samples.values()))
    x = tuple(edges.tolist())
    series = tuple(Series(label, "other", x, (*shares(values, edges), None)) for label, values in samples.items())
    return Lines(name, caption, x_label, "share of images", (Panel("", series),), drawn="steps")


def blind_grid(run: Run, labels: list[int]) -> Item:
    """What the blind classifiers saw and their own features: a row a class."""
    parts = [run.read_tensors(f"examples/blind-{label}.safetensors")["x"] for label in labels]
    run.write_tensors("examples/blind.safetensors", {"x": torch.cat(parts).contiguous()})
    heads = ("non-robust", "robust", "own, non-robust", "own, robust")
    caption = "Left half: features as seen by the blind net of the class; right half: its own inversion of them."
    return Grid("blind", caption, "examples/blind.safetensors", len(heads), heads=heads)


def _set_pixels(run: Run, name: str) -> Tensor:
    return run.read_tensors(f"sets/{name}.safetensors")["images"].float() / 255
