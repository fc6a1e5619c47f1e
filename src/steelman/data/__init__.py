"""Data sets as uint8 tensors in memory, three splits always: train to fit, val to choose, test to report."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from steelman.data._decoded import gathered
from steelman.errors import DataError
from steelman.progress import Progress, silent
from steelman.spec import Spec
from steelman.types import Images, Labels


@dataclass(frozen=True, eq=False)
class Data:
    """Images (uint8, n c h w) with labels (int64, n) and the names of the classes.

    Raises:
        DataError: empty, wrong dtype or shape, lengths that differ, or a label outside the classes.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = field(default="data")
    notes: tuple[str, ...] = ()  # what a reader of results must know: images left out, pixels rounded

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(
                f"{self.name}: images are {self.images.dtype} of shape {tuple(self.images.shape)}. "
                "Expected uint8 of shape (n, channels, height, width)."
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"{self.name}: labels are {self.labels.dtype} of shape {tuple(self.labels.shape)} for "
                f"{len(self.images)} images. Expected int64, one label an image."
            )
        if len(self.images) == 0:
            raise DataError(f"{self.name} is empty. Expected at least one image.")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"{self.name}: labels run from {low} to {high}. Expected 0 to {len(self.classes) - 1}, "
                f"for {len(self.classes)} classes."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        """sha256 over images, labels and class names: equal content, equal digest."""
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)  # no copy: it may be mapped from a file
        digest.update(self.labels.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def pixels(self, index: Tensor | slice = slice(None)) -> Images:
        """Images as float32 in [0, 1]."""
        return self.images[index].float() / 255

    def targets(self, index: Tensor | slice = slice(None)) -> Labels:
        """Labels of the same images."""
        return self.labels[index]

    def first(self, num: int | None) -> "Data":
        """The first `num` images; all of them for None or when there are fewer."""
        return self if num is None or num >= len(self) else self.take(torch.arange(num))

    def take(self, index: Tensor) -> "Data":
        """The images at these positions, in this order."""
        return replace(self, images=gathered(self.images, index), labels=self.labels[index])

    def followed_by(self, other: "Data") -> "Data":
        """These images, then those of another split of the same data."""
        return replace(
            self, images=torch.cat((self.images, other.images)), labels=torch.cat((self.labels, other.labels))
        )

    def to(self, device: torch.device | str) -> "Data":
        """The same data on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


class Splits(NamedTuple):
    """Train to fit, val to choose, test to report."""

    train: Data
    val: Data
    test: Data

    @property
    def digest(self) -> str:
        """One digest for the three."""
        return hashlib.sha256("".join(part.digest for part in self).encode()).hexdigest()


@dataclass(frozen=True, repr=False)
class Source(Spec):
    """Where data come from. Subclasses are the names after `--data`."""

    usual_eps: ClassVar[float] = 8 / 255  # the L-inf radius at which such images are usually attacked

    def splits(self, root: Path | None = None, progress: Progress = silent) -> Splits:
        """Read the three splits, from `root`, else $STEELMAN_DATA, else downloaded where that is possible.

        Raises:
            DataError: missing, truncated, corrupt or wrongly labelled data.
        """
        raise NotImplementedError
