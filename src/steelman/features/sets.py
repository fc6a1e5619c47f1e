"""Feature sets: reconstructed, or mislabelled on purpose (D_rand, D_det of Ilyas et al. 2019, arXiv:1905.02175).

Written as arrays that every training command takes with `--data FILE`.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from steelman.attacks import Attack
from steelman.data import Data, Splits
from steelman.engine import generator_for
from steelman.errors import UsageError
from steelman.features import Inversion
from steelman.features.inversion import Inverted, invert, random_starts
from steelman.files import replacing
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.threats import Ball
from steelman.types import Images, Labels

Mislabelling = Literal["random", "next"]

CHUNK = 5_000  # images whose reconstruction is written at a time: what a stop can cost


def reconstruct(
    run: Run,
    name: str,
    model: nn.Module,
    layer: str,
    x: Images,
    pool: Tensor,
    method: Inversion,
    *,
    tolerance: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Inverted:
    """Every x inverted at a layer, starting from random images of `pool`; kept in the run, chunk by chunk.

    What is in the run already is not computed again, and the result does not depend on where it was interrupted.

    Raises:
        UsageError: as `invert`; RunError: the run cannot be written.
    """
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(x), CHUNK):
        file = f"examples/{name}-{start:05d}.safetensors"
        if not run.has(file):
            generator = generator_for(x, seed + start)
            part = x[start : start + CHUNK]
            starts = random_starts(pool, len(part), generator)

            def tell(done: int, _: int, words: str, before: int = start) -> None:
                progress(before + done, len(x), words)

            found = invert(model, layer, part, starts, method, tolerance=tolerance, sample=x, progress=tell)
            run.write_tensors(file, found.tensors())
        parts.append(run.read_tensors(file))
        progress(min(start + CHUNK, len(x)), len(x), "matching activations")
    return Inverted(**{field: torch.cat([part[field] for part in parts]) for field in parts[0]})


def mislabelled(
    model: nn.Module,
    x: Images,
    y: Labels,
    kind: Mislabelling,
    attack: Attack,
    threat: Ball,
    *,
    classes: int,
    generator: Generator,
    progress: Progress = silent,
) -> tuple[Images, Labels]:
    """Images changed towards another class, and that class as their label: only non-robust features fit the labels.

    `kind` says which class: "random" draws it among all (D_rand), "next" takes y + 1 (D_det).

    Raises:
        UsageError: fewer than two classes, or an attack that does not search in the threat's norm.
    """
    if classes < 2:
        raise UsageError(f"{classes} classes. Expected two or more: an image needs another class to go to.")
    if kind == "random":
        target = torch.randint(classes, y.shape, generator=generator, device=y.device)
    else:
        target = (y + 1) % classes
    away = (target != y).nonzero().squeeze(1)
    found = attack.run(model, x[away], y[away], threat, target=target[away], generator=generator, progress=progress)
    return x.index_copy(0, away, found.x_adv), target


def as_data(x: Images, y: Labels, classes: tuple[str, ...], name: str) -> Data:
    """Float images in [0, 1] as a data set of 8-bit images."""
    return Data((x * 255).round().byte().cpu().contiguous(), y.cpu().contiguous(), classes, name)


def write_set(path: Path, splits: Splits) -> Path:
    """One array file, .npz or .safetensors by its ending, of images, labels, split and class names; returns the path.

    Raises:
        UsageError: another ending.
        RunError: the file cannot be written.
    """
    images, labels = torch.cat([part.images for part in splits]), torch.cat([part.labels for part in splits])
    split = torch.cat([torch.full((len(part),), number) for number, part in enumerate(splits)])
    arrays = {"images": images.contiguous(), "labels": labels, "split": split}
    classes = splits.train.classes
    if path.suffix not in (".npz", ".safetensors"):
        raise UsageError(f"{path} is no array file. Expected one that ends in .npz or .safetensors.")
    with replacing(path) as (draft,):
        if path.suffix == ".npz":
            plain: dict[str, Any] = {name: values.numpy() for name, values in arrays.items()}
            with draft.open("wb") as file:  # a name would be given the ending .npz once more
                np.savez_compressed(file, classes=np.array(classes), **plain)
        else:
            save_file(arrays, draft, {"classes": json.dumps(classes)})
    return path


def write_by_class(folder: Path, data: Data) -> None:
    """A file x_LABEL.npy for each class, 8-bit images (n, h, w) or (n, c, h, w), and all labels in y.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    for label in range(len(data.classes)):
        mine = data.images[data.labels == label]
        np.save(folder / f"x_{label}.npy", (mine.squeeze(1) if mine.shape[1] == 1 else mine).numpy())
    np.save(folder / "y.npy", data.labels.numpy())
