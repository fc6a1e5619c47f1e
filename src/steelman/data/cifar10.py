"""CIFAR-10: 60,000 photos, 32x32 in colour (Krizhevsky 2009, Learning multiple layers of features from tiny images)."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steelman.data import Data, Source, Splits
from steelman.data._files import check_md5, data_root, fetch
from steelman.data._splits import named
from steelman.errors import DataError
from steelman.progress import Progress, silent

VAL = 10_000  # the last images of the official training set


@dataclass(frozen=True, repr=False)
class CIFAR10(Source):
    """Small photos; train and val are the first 40,000 and last 10,000 official training images.

    The test split is the official one. Read from `<root>/cifar-10-batches-py` or
    `<root>/cifar-10-python.tar.gz`, downloaded there on first use.
    """

    def splits(self, root: Path | None = None, progress: Progress = silent) -> Splits:
        """40,000 / 10,000 / 10,000 images of 3x32x32.

        Raises:
            DataError: a file with a wrong checksum, a missing one, or a failed download.
        """
        from steelman.vision import torchvision  # takes seconds to import

        cls: Any = torchvision.datasets.CIFAR10
        base = data_root(root)
        if not (base / cls.base_folder).is_dir():
            fetch("CIFAR10", cls.base_folder, base, progress, archive=cls.filename)
        train, test = _read(cls, base, train=True), _read(cls, base, train=False)
        cut = len(train) - VAL
        return named("CIFAR10", train.take(torch.arange(cut)), train.take(torch.arange(cut, len(train))), test)


def _read(cls: Any, root: Path, *, train: bool) -> Data:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy, about the age of these pickles
            dataset = cls(root, train=train)  # unpickles nothing that has not its canonical md5
    except RuntimeError as error:
        raise _diagnosis(cls, root / cls.base_folder) from error
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return Data(images, torch.tensor(dataset.targets), tuple(dataset.classes))


def _diagnosis(cls: Any, folder: Path) -> DataError:
    """Which file torchvision did not like."""
    for name, md5 in (*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])):
        if not (folder / name).is_file():
            return DataError(
                f"{folder / name} is missing. Delete {folder} to have all of it downloaded again, or name a folder "
                "with good files with --data-root."
            )
        try:
            check_md5(folder / name, (folder / name).read_bytes(), md5)
        except DataError as error:
            return error
    return DataError(f"{folder} cannot be read by torchvision. Delete it to have it downloaded again.")
