"""Fashion-MNIST: 70,000 articles of clothing, 28x28 (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from steelman.data import Source, Splits, _idx
from steelman.progress import Progress, silent

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True, repr=False)
class Fashion(Source):
    """Articles of clothing; train and val are the first 50,000 and last 10,000 official training images.

    The test split is the official one. Read from `<root>/FashionMNIST/raw`, downloaded there on first use.
    """

    usual_eps: ClassVar[float] = 0.1

    md5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }

    def splits(self, root: Path | None = None, progress: Progress = silent) -> Splits:
        """50,000 / 10,000 / 10,000 images of 1x28x28.

        Raises:
            DataError: a file with a wrong checksum, one that cannot be read, or a failed download.
        """
        return _idx.read("FashionMNIST", CLASSES, self.md5, root, progress)
