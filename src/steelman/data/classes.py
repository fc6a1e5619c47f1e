"""Some classes of another data set, as the two tasks A and B of Yosinski et al. 2014 (arXiv:1411.1792)."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from steelman.data import Data, Source, Splits
from steelman.errors import DataError, SpecError, choices
from steelman.progress import Progress, silent


@dataclass(frozen=True, repr=False)
class Classes(Source):
    """The images of the classes in `keep`, numbered as they are named there, in each split of `source`."""

    source: Source
    keep: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.keep) < 2 or len(set(self.keep)) < len(self.keep):
            raise SpecError(f"Classes.keep is {self.keep}. Expected two or more different names, such as ('0', '1').")

    def splits(self, root: Path | None = None, progress: Progress = silent) -> Splits:
        """What the source gives, without the images of other classes.

        Raises:
            DataError: the source has no such class, or a split has no image of any.
        """
        return Splits(*(self._kept(part) for part in self.source.splits(root, progress)))

    def _kept(self, data: Data) -> Data:
        for name in self.keep:
            if name not in data.classes:
                raise DataError(f"{data.name}: {choices('class', name, data.classes)}")
        number = torch.full((len(data.classes),), -1)
        for new, name in enumerate(self.keep):
            number[data.classes.index(name)] = new
        rows = (number[data.labels] >= 0).nonzero().squeeze(1)
        if len(rows) == 0:
            raise DataError(f"{data.name} has no image of {', '.join(self.keep)}. Choose classes that it holds.")
        part = data.take(rows)
        return replace(part, labels=number[part.labels], classes=self.keep)
