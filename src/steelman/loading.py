"""load(): a classifier, ready to use, from a run directory, an architecture's spec or the user's own factory."""

import os
import re
from pathlib import Path

import torch
from torch import Generator, nn

from steelman.models.factory import build_model
from steelman.models.weights import load_weights
from steelman.train import load_run


def load(
    run_or_spec: str | Path,
    weights: str | Path | None = None,
    *,
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    generator: Generator | None = None,
) -> nn.Module:
    """The network, in eval mode, from pixels in [0, 1] to logits.

    Args:
        run_or_spec: the directory of a training, such as `runs/cnn`; an architecture such as `CNN`, or
            `package.module:factory`.
        weights: a .safetensors, .pt or .pth file; without it an architecture's weights are a fresh draw.
        shape: channels, height and width that an architecture or factory is built for; a run knows its own.
        classes: their number; a run knows its own.
        generator: where fresh weights are drawn from; seed 0 without it.

    Raises:
        RunError: the directory is no run of a training, or one that has kept no weights yet.
        SpecError: no such architecture or field.
        UsageError: no such factory, or one that fails.
        WeightsError: weights that do not fit, or a file that may not be read.
    """
    if is_run(run_or_spec):
        model = load_run(Path(run_or_spec)).model
    else:
        generator = generator or torch.Generator().manual_seed(0)
        model = build_model(str(run_or_spec), shape, classes, generator)
    if weights is not None:
        load_weights(model, weights)
    return model


def is_run(text: str | Path) -> bool:
    """Whether this means a directory: it is one of a run, or it is written as a path, of no `file.py:factory`."""
    if isinstance(text, Path) or (Path(text) / "spec.txt").is_file():
        return True
    return os.sep in text.partition("(")[0] and not re.search(r":[A-Za-z_]\w*$", text)
