"""PACS (Li et al. 2017, arXiv:1710.03077), without its photos: paintings, cartoons and sketches of seven classes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from steelman.data import Source, Splits
from steelman.data._splits import named
from steelman.data.folder import Folder
from steelman.errors import SpecError
from steelman.progress import Progress, silent

FILE = "pacs-renditions-160px.zip"
DOMAINS = ("art_painting", "cartoon", "sketch")


@dataclass(frozen=True, repr=False)
class PACS(Source):
    """Renditions, read from `<root>/pacs-renditions-160px.zip` (160x160 pixels, at most 120 a class and domain).

    The zip's val folder is the test split; val is a fifth of its train folder. `domain` keeps one kind of rendition in
    the test split, and leaves the others as they are.

    Raises:
        SpecError: a size below 1 pixel.
    """

    size: int = 96
    domain: Literal["art_painting", "cartoon", "sketch"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise SpecError(f"PACS.size is {self.size}. Expected at least 1 pixel, such as size=96.")

    def splits(self, root: Path | None = None, progress: Progress = silent) -> Splits:
        """1,488 / 372 / 620 images of 3 x size x size, seven classes.

        Raises:
            DataError: the zip is missing or damaged.
        """
        train, held_out, carved = Folder(FILE, size=self.size).splits(root, progress)
        test = held_out
        if self.domain is not None:
            test = Folder(FILE, size=self.size, only=self.domain).splits(root, progress).val
        return named("PACS", train, carved, test)

    def domains(self) -> tuple["PACS", ...]:
        """The same set, tested on one kind of rendition each."""
        return tuple(replace(self, domain=domain) for domain in DOMAINS)
