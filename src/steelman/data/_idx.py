"""Data sets in MNIST's file format (four idx files: images and labels of train and t10k), read without torchvision.

The files are held to their canonical md5 first, so their headers are known and need no parsing: 16 bytes before 28x28
images, 8 before labels. torchvision, which takes seconds to import, is only used to download.
"""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from steelman.data import Data, Splits
from steelman.data._files import check_md5, data_root, fetch
from steelman.data._splits import named
from steelman.errors import DataError
from steelman.progress import Progress

VAL = 10_000  # the last images of the official training set
SIDE = 28


def read(
    dataset: str, classes: tuple[str, ...], md5s: Mapping[str, str], root: Path | None, progress: Progress
) -> Splits:
    """50,000 / 10,000 / 10,000 images of `<root>/<dataset>/raw` (plain or .gz), downloaded when a file is missing.

    Raises:
        DataError: a file with a wrong checksum, one that cannot be read, or a failed download.
    """
    base = data_root(root)
    folder = f"{dataset}/raw"
    if not all(_find(base / folder / name) for name in md5s):
        fetch(dataset, folder, base, progress)
    train, test = (
        Data(
            torch.from_numpy(_content(base / folder, f"{part}-images-idx3-ubyte", md5s)[16:]).view(-1, 1, SIDE, SIDE),
            torch.from_numpy(_content(base / folder, f"{part}-labels-idx1-ubyte", md5s)[8:]).long(),
            classes,
        )
        for part in ("train", "t10k")
    )
    cut = len(train) - VAL
    return named(dataset, train.take(torch.arange(cut)), train.take(torch.arange(cut, len(train))), test)


def _find(path: Path) -> Path | None:
    return next((file for file in (path, path.with_name(f"{path.name}.gz")) if file.is_file()), None)


def _content(folder: Path, name: str, md5s: Mapping[str, str]) -> np.ndarray:
    """The bytes of a file, unpacked and verified."""
    path = _find(folder / name)
    assert path is not None, f"{name} was found or fetched before"
    try:
        raw = path.read_bytes()
        content = bytearray(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read ({error}). Expected an idx file: delete it to have it downloaded again, or name a "
            "folder with good files with --data-root."
        ) from error
    check_md5(path, content, md5s[name])
    return np.frombuffer(content, dtype=np.uint8)
