"""Images and labels as arrays in one file: .npz or .safetensors."""

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steelman.data import Data, Source, Splits
from steelman.data._files import locate
from steelman.data._splits import named, shuffled, stratified, three
from steelman.errors import DataError
from steelman.progress import Progress, silent

FEW = 3  # images a class up to which an order by class does no harm
MOST_CLASSES = 100_000  # a label beyond that is a mistake


@dataclass(frozen=True, repr=False)
class Arrays(Source):
    """A .npz or .safetensors file with `images` and `labels` (or `x` and `y`), and optionally `classes` and `split`.

    Images are uint8, or float in [0, 1] (rounded to 8 bits, which is noted); n h w, n c h w or n h w c with 1 or 3
    channels. Labels are whole numbers from 0. `classes` are names: an array of text in a .npz, a JSON list under
    "classes" in the metadata of a .safetensors. `split` says 0 train, 1 val, 2 test for each image; without it
    60 / 20 / 20 % of every class. Without val a sixth of every class of train. Splits that are given keep their order,
    but for one that is sorted by class. A .npz may also be in two halves, `x_train`, `y_train`, `x_test` and `y_test`,
    as Keras saves its data sets.
    """

    path: str

    def splits(self, root: Path | None = None, progress: Progress = silent) -> Splits:
        """Three splits of uint8 images; `notes` say when pixels were rounded.

        Raises:
            DataError: an unreadable file, pickled objects, arrays that are missing, of another dtype, shape or length,
                pixels that are NaN or outside [0, 1], labels out of range, an empty split.
        """
        path = locate(self.path, root)
        progress(0, 1, f"reading {path.name}")
        content = _read(path)
        images, notes = _pixels(path, content.images)
        labels = _whole(path, "labels", content.labels, len(images))
        classes = content.classes or _numbered(path, labels)
        data = Data(images, labels, classes, path.name, notes)
        progress(1, 1, f"reading {path.name}")
        if content.split is None:
            return three(data)
        return _given(path, data, _whole(path, "split", content.split, len(images)))


class _Content(NamedTuple):
    images: Tensor
    labels: Tensor
    split: Tensor | None
    classes: tuple[str, ...]


def _read(path: Path) -> _Content:
    try:
        if path.suffix == ".npz":
            arrays, classes = _read_npz(path)
        elif path.suffix == ".safetensors":
            arrays, classes = _read_safetensors(path)
        else:
            raise DataError(f"{path} is not an array file. Expected one that ends in .npz or .safetensors.")
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error, SafetensorError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be read ({_cause(error)}). Expected "
            "plain arrays of numbers in a whole .npz or .safetensors file; pickled objects are refused. Save it again."
        ) from error
    if set(_HALVES) <= set(arrays):
        return _joined(path, arrays, classes)
    images, labels = (_one_of(path, arrays, *names) for names in (("images", "x"), ("labels", "y")))
    return _Content(images, labels, arrays.get("split"), classes)


def _cause(error: Exception) -> str:
    """Its first line; numpy's own advice on pickled objects is not passed on, as it would run what they hold."""
    said = str(error).partition("\n")[0] or type(error).__name__
    return "it holds pickled objects" if "allow_pickle" in said else said


def _read_npz(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    with path.open("rb") as stream:  # numpy itself leaves a truncated file open
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one bare array")
        if not set(file.files) & set(_NAMES):
            raise DataError(
                f"{path} holds {', '.join(sorted(file.files)) or 'nothing'}. Expected arrays named images and labels, "
                "or x and y, or x_train, y_train, x_test and y_test: such as np.savez(file, x=images, y=labels)."
            )
        arrays = {name: file[name] for name in file.files if name in _NAMES}
        if text := [name for name, array in arrays.items() if name[0] in "ly" and array.dtype.kind in "US"]:
            raise DataError(
                f"{path}: {text[0]} are text. Expected numbers: count the classes from 0, and give their names in this "
                "order as classes."
            )
        classes = tuple(str(name) for name in file["classes"]) if "classes" in file.files else ()
    # torch knows no foreign byte order
    tensors = {k: torch.from_numpy(v.astype(v.dtype.newbyteorder("="), copy=False)) for k, v in arrays.items()}
    return tensors, classes


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    with safe_open(path, framework="pt") as file:
        names: list[str] = [name for name in file.keys() if name in _NAMES]  # noqa: SIM118 - not iterable itself
        classes = json.loads((file.metadata() or {}).get("classes", "[]"))
        return {name: file.get_tensor(name) for name in names}, tuple(str(name) for name in classes)


_HALVES = ("x_train", "y_train", "x_test", "y_test")
_NAMES = ("images", "x", "labels", "y", "split", *_HALVES)


def _joined(path: Path, arrays: dict[str, Tensor], classes: tuple[str, ...]) -> _Content:
    """Two halves as one; labels may be columns."""
    train, test = arrays["x_train"], arrays["x_test"]
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise DataError(
            f"{path}: x_train are {train.dtype} of shape {tuple(train.shape)}, x_test {test.dtype} of shape "
            f"{tuple(test.shape)}. Expected images of one kind."
        )
    labels = torch.cat([arrays[name].flatten() for name in ("y_train", "y_test")])
    split = torch.tensor([0, 2]).repeat_interleave(torch.tensor([len(train), len(test)]))
    return _Content(torch.cat((train, test)), labels, split, classes)


def _one_of(path: Path, arrays: dict[str, Tensor], *names: str) -> Tensor:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise DataError(
        f"{path} holds no {names[0]} (found: {', '.join(sorted(arrays)) or 'nothing of use'}). Expected arrays named "
        "images and labels, or x and y, or x_train, y_train, x_test and y_test."
    )


def _pixels(path: Path, images: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Images as uint8, n c h w, and a note if that changed them."""
    if len(images.shape) == 0 or images.numel() == 0:
        raise DataError(f"{path}: images are empty, of shape {tuple(images.shape)}. Expected at least one image.")
    images = _channels_first(path, images)
    if images.dtype == torch.uint8:
        return images.contiguous(), ()
    if not images.is_floating_point():
        raise DataError(
            f"{path}: images are {images.dtype}. Expected uint8, or float in [0, 1]: convert with .astype('uint8')."
        )
    _check_range(path, images)
    scaled = images.double() * 255
    rounded = scaled.round()
    change = float((scaled - rounded).abs().max()) / 255
    note = f"float images were rounded to 8 bits, by at most {change:.4f}"
    return rounded.to(torch.uint8).contiguous(), (note,) if change > 1e-5 else ()


def _channels_first(path: Path, images: Tensor) -> Tensor:
    if images.ndim == 3:
        return images[:, None]
    first, last = (images.ndim == 4 and images.shape[axis] in (1, 3) for axis in (1, 3))
    if first == last:
        what = "could have its channels first or last" if first else "has no axis of 1 or 3 channels"
        raise DataError(
            f"{path}: images of shape {tuple(images.shape)}: this {what}. Expected n h w, n c h w or n h w c with 1 or "
            "3 channels."
        )
    return images if first else images.permute(0, 3, 1, 2)


def _check_range(path: Path, images: Tensor) -> None:
    bad = ~torch.isfinite(images).flatten(1).all(1)
    if bad.any():
        raise DataError(
            f"{path}: {int(bad.sum())} images hold NaN or infinite pixels, the first is number "
            f"{int(bad.nonzero()[0])}. Expected pixels in [0, 1]: repair or remove them."
        )
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high <= 1:
        return
    if low >= 0 and high <= 255:
        cause = "These look like levels of 0 to 255: divide by 255, or save them as uint8."
    elif low < 0:
        cause = "These look normalised: undo mean and standard deviation; normalisation is the model's first layer."
    else:
        cause = "Divide by the largest value that is possible."
    raise DataError(f"{path}: pixels run from {low:.4g} to {high:.4g}. Expected [0, 1]. {cause}")


def _whole(path: Path, name: str, values: Tensor, num: int) -> Tensor:
    """Labels or split as int64, one an image."""
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise DataError(f"{path}: {name} are {values.dtype}. Expected whole numbers: convert with .astype('int64').")
    if values.shape != (num,):
        raise DataError(
            f"{path}: {name} have shape {tuple(values.shape)} for {num} images. Expected ({num},), one an image."
        )
    return values.long()


def _numbered(path: Path, labels: Tensor) -> tuple[str, ...]:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MOST_CLASSES:
        raise DataError(
            f"{path}: labels run from {low} to {high}. Expected 0 to the number of classes - 1: number them anew."
        )
    return tuple(str(label) for label in range(high + 1))


def _given(path: Path, data: Data, split: Tensor) -> Splits:
    held = sorted(set(split.tolist()))
    if held not in ([0, 1, 2], [0, 2]):
        raise DataError(
            f"{path}: split holds {held[:5]}. Expected 0 (train), 1 (val) and 2 (test), each at least once, or no val."
        )
    parts = {part: data.take((split == part).nonzero().flatten()) for part in held}
    train, test = parts[0], parts[2]
    train, val = (train, parts[1]) if 1 in parts else (train.take(rows) for rows in stratified(train, (5 / 6, 1 / 6)))
    return named(path.name, *map(_mixed, (train, val, test)))


def _mixed(part: Data) -> Data:
    """The images in the file's order, but shuffled where that is by class: the first n of them would be of one."""
    by_class = bool((part.labels.diff() >= 0).all()) and len(part) > FEW * len(part.labels.unique())
    return shuffled(part) if by_class else part
