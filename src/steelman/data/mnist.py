"""MNIST: 70,000 handwritten digits, 28x28 (LeCun, Bottou, Bengio, Haffner 1998)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from steelman.data import Source, Splits, _idx
from steelman.progress import Progress, silent


@dataclass(frozen=True, repr=False)
class MNIST(Source):
    """Handwritten digits; train and val are the first 50,000 and last 10,000 official training images.

    The test split is the official one. Read from `<root>/MNIST/raw`, downloaded there on first use.
    """

    usual_eps: ClassVar[float] = 0.3

    md5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    def splits(self, root: Path | None = None, progress: Progress = silent) -> Splits:
        """50,000 / 10,000 / 10,000 images of 1x28x28.

        Raises:
            DataError: a file with a wrong checksum, one that cannot be read, or a failed download.
        """
        return _idx.read("MNIST", tuple("0123456789"), self.md5, root, progress)
