"""The study's figures: sample strip, grids of features for each class, histograms."""

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from steelman.data import Splits
from steelman.features.distances import shared_bins, shares
from steelman.page import Grid, Item, Lines, Panel, Series
from steelman.runs import Run
from steelman.studies.features.plan import GROUPS, Plan
from steelman.threats.groups import ORIGINAL

if TYPE_CHECKING:
    from steelman.studies.features.collect import Reconstructed

SIDE = 5  # images of a class across and down a sheet
LINE = 0.5  # brightness of what is between them
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


def class_grid(run: Run, made: "Reconstructed") -> Grid:
    """A row a class, a column a set, and there 5 x 5 images: the same ones in the same places of every column."""
    classes = made.originals.classes
    sheets = [_sheet(_first_of_class(run, name, label)) for label in range(len(classes)) for name, _ in GRID_SETS]
    run.write_tensors("examples/classes.safetensors", {"x": torch.stack(sheets)})
    words = tuple(name for name in classes for _ in GRID_SETS)
    heads = tuple(head for _, head in GRID_SETS)
    caption = f"The first {SIDE**2} training images of each class: as they are, and what each network made of them."
    return Grid("classes", caption, "examples/classes.safetensors", len(GRID_SETS), words, heads)


def _sheet(x: Tensor) -> Tensor:
    """Up to 5 x 5 images as one, (c, 5 h + 4, 5 w + 4), with grey lines between them; places without one are black."""
    filled = torch.cat((x, x.new_zeros((SIDE**2 - len(x), *x.shape[1:]))))
    framed = F.pad(filled, (0, 1, 0, 1), value=LINE).unflatten(0, (SIDE, SIDE))
    return framed.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)[:, :-1, :-1].contiguous()


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


def _first_of_class(run: Run, name: str, label: int) -> Tensor:
    """The first images of a class in a set as it was made, in the order of the originals."""
    first = np.load(run.path / "sets" / name / f"x_{label}.npy", mmap_mode="r", allow_pickle=False)[: SIDE**2]
    x = torch.from_numpy(np.array(first)).float() / 255
    return x[:, None] if x.ndim == 3 else x  # grey images are kept without a channel
