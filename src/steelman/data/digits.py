"""The 1,797 handwritten digits that come with scikit-learn (Alpaydin, Kaynak 1998; UCI optdigits, test part)."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steelman.data import Data, Source, Splits
from steelman.data._splits import three
from steelman.progress import Progress, silent

SIDE = 28


@dataclass(frozen=True, repr=False)
class Digits(Source):
    """8x8 digits of 17 grey levels, stretched to 0..255 and resized to 28x28 (bilinear); no file, no network."""

    usual_eps: ClassVar[float] = 0.15

    def splits(self, root: Path | None = None, progress: Progress = silent) -> Splits:  # noqa: ARG002 - embedded
        """1,079 / 359 / 359 images of 1x28x28, every class with its share in each; the splits never change."""
        return three(Data(*_drawn(), tuple("0123456789"), "Digits"))


@functools.cache
def _drawn() -> tuple[Tensor, Tensor]:
    """All images, resized once a process, and their labels."""
    from sklearn.datasets import load_digits  # takes a second to import

    raw: Any = load_digits()
    levels = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    # Pillow resizes 8-bit images in whole numbers: the same pixels on every machine
    resized = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for one in levels]
    return torch.from_numpy(np.stack(resized)[:, None]), torch.from_numpy(raw.target).long()
