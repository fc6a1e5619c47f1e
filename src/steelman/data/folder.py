"""Pictures in class folders, as torchvision's ImageFolder lays them out: a directory or a .zip."""

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import torch
from torch import Tensor

from steelman.data import Data, Source, Splits, _decoded
from steelman.data._files import locate
from steelman.data._pictures import ENDINGS, Read, opened, pixels, unlike
from steelman.data._splits import SHARES, named, shuffled, stratified, three
from steelman.errors import DataError, SpecError
from steelman.progress import Progress, silent

PARTS = {  # names of folders, whatever their case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

Class: TypeAlias = str
# part ("train", "val", "test", or "all" when the folder is not split) -> pictures with their class
Layout: TypeAlias = dict[str, list[tuple[PurePosixPath, Class]]]


@dataclass(frozen=True, repr=False)
class Folder(Source):
    """`<path>/<class>/<picture>`, or the same inside train, val and test folders (train and one of the others will do).

    Classes are the sorted folder names. What is not split is: 60 / 20 / 20 % of every class, or 20 % of train for the
    part that is missing. Each split comes in a fixed shuffled order.

    Attributes:
        path: a directory or .zip; a folder around everything else is looked through.
        size: height and width of the result: the short side is scaled to it, then the centre cut out.
        channels: 3 for colour, 1 for grey.
        skip_bad: leave corrupt pictures out and note them, instead of an error.
        short_side: what the short side is scaled to before the centre of `size` is cut out; None for `size` itself.
        stretch: scale both sides to `size` instead, cut nothing; the aspect ratio is lost.
        only: keep the pictures whose file name begins with this.
    """

    path: str
    size: int = 64
    channels: int = 3
    skip_bad: bool = False
    short_side: int | None = None
    stretch: bool = False
    only: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise SpecError(f"Folder.size is {self.size}. Expected at least 1 pixel, such as size=64.")
        if self.channels not in (1, 3):
            raise SpecError(f"Folder.channels is {self.channels}. Expected 3 for colour or 1 for grey.")
        if self.short_side is not None and (self.short_side < self.size or self.stretch):
            expected = f"at least size, {self.size}, out of whose centre it is cut, and no stretch"
            raise SpecError(f"Folder.short_side is {self.short_side}. Expected {expected}.")

    def splits(self, root: Path | None = None, progress: Progress = silent) -> Splits:
        """Three splits of uint8 pictures, channels x size x size; `notes` count what was left out or converted.

        Large sets are decoded once and kept (see steelman.data._decoded).

        Raises:
            DataError: no such path, no class folders, a truncated zip, a corrupt picture, too few pictures to split.
        """
        path = locate(self.path, root)
        with opened(path) as (names, read):
            layout, outside = _layout(path, [name for name in names if name.name.startswith(self.only)])
            key = _decoded.key_of(path, repr(self)) if len(names) >= _decoded.FEW else None
            parts = None if key is None else _decoded.kept(key)
            if parts is not None:
                whole = {name: Data(p.images, p.labels, p.classes, notes=p.notes) for name, p in parts.items()}
                return named(path.name, whole["train"], whole["val"], whole["test"])
            splits = self._splits(path, read, layout, outside, progress)
        if key is not None:
            parts = {"train": splits.train, "val": splits.val, "test": splits.test}
            kept = {name: _decoded.Part(p.images, p.labels, p.classes, p.notes) for name, p in parts.items()}
            _decoded.keep(key, kept)
        return splits

    def _splits(
        self, path: Path, read: Read, layout: Layout, outside: list[PurePosixPath], progress: Progress
    ) -> Splits:
        classes = _classes(path, layout, len(outside) + sum(map(len, layout.values())))
        images, row, corrupt, converted = self._read(path, read, layout, progress)
        notes = (*_note("outside any class folder", outside), *_note("corrupt", corrupt), *_conversions(converted))
        notes += _absent(layout, classes)
        found: dict[str, Data] = {}
        for part, pictures in layout.items():
            kept = [(row[name], classes.index(label)) for name, label in pictures if name in row]
            if not kept:
                raise DataError(f"{path}: no readable picture for {part}. Repair the files or remove the folder.")
            rows, labels = torch.tensor(kept).T
            found[part] = Data(_decoded.gathered(images, rows), labels.contiguous(), classes, path.name, notes)
        return _three(path.name, found)

    def _read(
        self, path: Path, read: Read, layout: Layout, progress: Progress
    ) -> tuple[Tensor, dict[PurePosixPath, int], list[PurePosixPath], Counter[str]]:
        """Pixels, the row of each name, the names of pictures that could not be decoded, and what was converted."""
        names = [name for pictures in layout.values() for name, _ in pictures]
        images = _decoded.room((len(names), self.channels, self.size, self.size))
        row: dict[PurePosixPath, int] = {}
        corrupt: list[PurePosixPath] = []
        converted: Counter[str] = Counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about metadata and large pictures
            for done, name in enumerate(names, start=1):
                try:
                    content = read(name)
                    images[len(row)] = pixels(
                        content, self.size, self.channels, short_side=self.short_side, stretch=self.stretch
                    )
                    converted[unlike(content, self.channels)] += 1
                    row[name] = len(row)
                except Exception as error:  # decoders raise what they like
                    if not self.skip_bad:
                        reason = _reason(error)
                        raise DataError(
                            f"{path}: {name} is corrupt ({reason}). Repair or remove it, or leave such pictures out "
                            "with skip_bad=True (--skip-bad)."
                        ) from error
                    corrupt.append(name)
                progress(done, len(names), f"reading {path.name}")
        return images, row, corrupt, converted


def _reason(error: Exception) -> str:
    """What a decoder says, without the address of the bytes that it was given."""
    words = re.sub(r"<_io\.BytesIO object at 0x\w+>", "", str(error))
    return " ".join(words.split()) or type(error).__name__


def _layout(path: Path, names: list[PurePosixPath]) -> tuple[Layout, list[PurePosixPath]]:
    """Parts with their pictures, and the pictures outside any class folder."""
    if not names:
        raise DataError(
            f"{path} holds no pictures ({', '.join(ENDINGS)}). Expected <class>/<picture>, or train, val and test "
            "folders of that."
        )
    inner = {name: name.parts for name in names if len(name.parts) > 1}
    while len({parts[0] for parts in inner.values()}) == 1 and any(len(parts) > 2 for parts in inner.values()):
        inner = {name: parts[1:] for name, parts in inner.items() if len(parts) > 2}  # a folder around everything
    tops = {PARTS.get(parts[0].lower()) for parts in inner.values()}
    split = "train" in tops and bool(tops & {"val", "test"})
    layout: Layout = {}
    for name, parts in inner.items():
        part = PARTS.get(parts[0].lower()) if split else "all"
        below = parts[1:] if split else parts
        if part and len(below) > 1:
            layout.setdefault(part, []).append((name, below[0]))
    inside = {name for pictures in layout.values() for name, _ in pictures}
    return layout, [name for name in names if name not in inside]


def _classes(path: Path, layout: Layout, num: int) -> tuple[Class, ...]:
    """The sorted classes of train (or of all); the other parts may have no others."""
    labels = {part: {label for _, label in pictures} for part, pictures in layout.items()}
    classes = labels.get("train", labels.get("all", set()))
    if len(classes) < 2:
        raise DataError(
            f"{path} holds {num} pictures in {len(classes)} class folders. Expected at least two: "
            "<class>/<picture>, or train, val and test folders of that."
        )
    for part, found in labels.items():
        if unknown := sorted(found - classes):
            raise DataError(
                f"{path}: {part} has {len(unknown)} classes that train has not ({', '.join(unknown[:5])}). "
                "Expected the class folders of train: rename or remove them."
            )
    return tuple(sorted(classes))


def _three(name: str, found: dict[str, Data]) -> Splits:
    if "all" in found:
        return three(found["all"])
    parts = {part: shuffled(data) for part, data in found.items()}
    for missing in {"val", "test"} - set(parts):  # one at most
        train, rest = stratified(found["train"], (1 - SHARES[1], SHARES[1]))
        parts["train"], parts[missing] = found["train"].take(train), found["train"].take(rest)
    return named(name, parts["train"], parts["val"], parts["test"])


def _conversions(converted: Counter[str]) -> list[str]:
    """A note of the pictures that were not 8-bit colour, by kind."""
    kinds = [f"{num} {kind}" for kind, num in sorted(converted.items()) if kind]
    return [f"converted {', '.join(kinds)}"] if kinds else []


def _absent(layout: Layout, classes: tuple[Class, ...]) -> tuple[str, ...]:
    """Notes of given parts that hold no picture of a class of train."""
    notes: list[str] = []
    for part, pictures in layout.items():
        held = {label for _, label in pictures}
        if missing := [name for name in classes if name not in held]:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            notes.append(f"{part} has no picture of {len(missing)} classes: {shown}")
    return tuple(notes)


def _note(what: str, names: list[PurePosixPath]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(str(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return [f"left out {len(names)} {what}: {shown}"]
