"""Texture against shape (Geirhos et al. 2019, arXiv:1811.12231): renditions of 16 classes that lack or mislead texture.

The pictures are no photos: outlines, black silhouettes, and photos that took the texture of another object by style
transfer. A network with 1,000 ImageNet classes is judged on them through the categories of `imagenet_classes.tsv`.
"""

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steelman.data import Data, Source, Splits
from steelman.data._files import data_root, locate
from steelman.data._pictures import opened
from steelman.data._splits import three
from steelman.errors import DataError, SpecError
from steelman.progress import Progress, silent
from steelman.types import Labels

Kind: TypeAlias = Literal["cue-conflict", "edges", "silhouettes"]

FILE, CATEGORIES = "texture-vs-shape-16class-160px.zip", "imagenet_classes.tsv"
KINDS: tuple[Kind, ...] = get_args(Kind)
_CONFLICT = re.compile(r"[a-z]+\d+-([a-z]+)\d+")  # <shape><i>-<texture><j>


@dataclass(frozen=True, eq=False)
class Renditions(Data):
    """Pictures labelled with their shape; `textures` is the class of the texture, -1 where there is none."""

    textures: Labels = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def take(self, index: Tensor) -> "Renditions":
        """The pictures at these positions, in this order."""
        part = super().take(index)
        return Renditions(part.images, part.labels, part.classes, part.name, part.notes, self.textures[index])


@dataclass(frozen=True, repr=False)
class TextureVsShape(Source):
    """One kind of rendition, read from `<root>/texture-vs-shape-16class-160px.zip`, scaled to `size` (bicubic).

    1,280 cue-conflict pictures, 160 edges, 160 silhouettes. They are for judging, and `whole` gives them all; the
    splits are 60 / 20 / 20 % of every class.

    Raises:
        SpecError: a size below 1 pixel.
    """

    kind: Kind = "cue-conflict"
    size: int = 224

    paper: ClassVar[str] = "Geirhos et al. 2019, arXiv:1811.12231"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise SpecError(f"TextureVsShape.size is {self.size}. Expected at least 1 pixel, such as size=224.")

    def splits(self, root: Path | None = None, progress: Progress = silent) -> Splits:
        """Three splits of one kind: uint8, 3 x size x size, 16 classes of shape.

        Raises:
            DataError: the zip is missing or damaged.
        """
        return three(self.whole(root, progress))

    def whole(self, root: Path | None = None, progress: Progress = silent, *, num: int | None = None) -> Renditions:
        """All pictures of the kind, or the first `num` of a fixed shuffled order.

        Raises:
            DataError: the zip is missing or damaged, or holds no picture of this kind.
        """
        path = locate(FILE, root)
        with opened(path) as (names, read):
            mine = [name for name in names if self.kind in name.parts[:-1]]
            if not mine:
                raise DataError(f"{path} holds no pictures of kind {self.kind}. Expected a folder {self.kind}.")
            mine = [mine[row] for row in np.random.RandomState(0).permutation(len(mine))]
            classes = tuple(sorted({name.parent.name for name in mine}))
            mine, images = mine[:num], list[Tensor]()
            for done, name in enumerate(mine, start=1):
                images.append(_scaled(path, name, read(name), self.size))
                progress(done, len(mine), f"reading {self.kind}")
        shapes, textures = (
            torch.tensor([classes.index(one) if one in classes else -1 for one in found])
            for found in ([name.parent.name for name in mine], [_texture(name) for name in mine])
        )
        return Renditions(torch.stack(images), shapes, classes, f"TextureVsShape {self.kind}", textures=textures)


def categories(classes: tuple[str, ...], root: Path | None = None) -> Tensor:
    """What turns probabilities of ImageNet's 1,000 classes into scores of categories: the mean over a category's rows.

    Float32, categories x 1000, each row sums to 1; read from `<root>/imagenet_classes.tsv`.

    Raises:
        DataError: the file is missing, or lacks one of the categories.
    """
    path = locate(CATEGORIES, root)
    with path.open(newline="") as file:
        rows = [(int(row["index"]), row["category16"]) for row in csv.DictReader(file, delimiter="\t")]
    weights = torch.zeros(len(classes), 1000)
    for index, category in rows:
        if category in classes:
            weights[classes.index(category), index] = 1
    if empty := [name for name, row in zip(classes, weights, strict=True) if not row.any()]:
        raise DataError(f"{path} has no class of category {', '.join(empty)}. Expected a column category16 with it.")
    return weights / weights.sum(1, keepdim=True)


def missing(root: Path | None = None) -> tuple[str, ...]:
    """Which of the two files are not in the data root."""
    return tuple(name for name in (FILE, CATEGORIES) if not (data_root(root) / name).is_file())


def _scaled(path: Path, name: PurePosixPath, content: bytes, size: int) -> Tensor:
    try:
        with Image.open(io.BytesIO(content)) as image:
            picture = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    except Exception as error:  # decoders raise what they like
        raise DataError(f"{path}: {name} is corrupt ({error}). Get the file again.") from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _texture(name: PurePosixPath) -> str:
    found = _CONFLICT.fullmatch(name.stem)
    return found[1] if found else ""
