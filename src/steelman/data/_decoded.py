"""Pictures decoded once: large sets are kept as uint8 tensor files, which are memory-mapped when memory is short.

A set of fewer pictures than FEW is decoded each time and leaves nothing on the disk. The files lie in the user's cache
folder, `steelman/decoded/<key>/`; the key is made of the source's path, sizes and dates and of all that the pixels
depend on. Deleting them is always safe.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from steelman.strict_json import json_text

FEW = 1_000  # pictures
SHARE = 0.25  # of the free memory that one set may fill; a larger one stays on the disk and is mapped
_ABOUT = "about.json"
_SMALL = 2**26  # bytes that are copied without asking how much memory is free
_COPY = 256  # pictures copied at a time


@dataclass(frozen=True, eq=False)
class Part:
    """One split as it is kept: pixels, labels and names of classes, and what a reader must know."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def folder() -> Path:
    """Where decoded sets are kept: in $XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steelman" / "decoded"


def key_of(path: Path, settings: str) -> str:
    """Identity of a directory or file as it is now, and of what is made of it."""
    digest = hashlib.sha256(f"{path.resolve()}\n{settings}\n1\n".encode())
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        about = file.stat()
        digest.update(f"{file}\n{about.st_size}\n{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:20]


def room(shape: tuple[int, ...]) -> Tensor:
    """An empty uint8 tensor: in memory, or mapped to a temporary file when it would fill too much of it."""
    size = int(np.prod(shape))
    if size <= SHARE * free_memory():
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.NamedTemporaryFile(prefix="steelman-pixels-") as file:  # mapped, it outlives its name
        return torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8).view(shape)


def free_memory() -> int:
    """Bytes that a set may be measured against; without an answer from the system, four gibibytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 4 * 2**30


def gathered(images: Tensor, rows: Tensor) -> Tensor:
    """The images at these positions, in this order, where there is room for them."""
    if images.numel() < _SMALL or images.is_cuda:
        return images[rows]
    found = room((len(rows), *images.shape[1:]))
    for start in range(0, len(rows), _COPY):
        found[start : start + _COPY] = images[rows[start : start + _COPY]]
    return found


def kept(key: str) -> dict[str, Part] | None:
    """The splits kept under a key, pixels mapped where memory is short; None when there are none, or not whole."""
    home = folder() / key
    try:
        about = json.loads((home / _ABOUT).read_text())
        parts: dict[str, Part] = {}
        for name, raw in about.items():
            file = home / f"{name}.npy"
            mapped = file.stat().st_size > SHARE * free_memory()
            pixels = np.load(file, mmap_mode="c" if mapped else None, allow_pickle=False)
            labels = torch.tensor(raw["labels"])
            if len(pixels) != len(labels):
                return None
            parts[name] = Part(torch.from_numpy(pixels), labels, tuple(raw["classes"]), tuple(raw["notes"]))
        return parts
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def keep(key: str, parts: dict[str, Part]) -> None:
    """Write splits under a key, whole or not at all; where the cache cannot be written nothing is kept."""
    home = folder() / key
    with contextlib.suppress(OSError):
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".draft-") as draft:
            about: dict[str, object] = {}
            for name, part in parts.items():
                _save(Path(draft, f"{name}.npy"), part.images)
                about[name] = {"labels": part.labels.tolist(), "classes": part.classes, "notes": part.notes}
            Path(draft, _ABOUT).write_text(json_text(about) + "\n")
            shutil.rmtree(home, ignore_errors=True)
            Path(draft).rename(home)
            Path(draft).mkdir()  # so that its removal finds something


def _save(path: Path, images: Tensor) -> None:
    target = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=tuple(images.shape))
    for start in range(0, len(images), _COPY):
        target[start : start + _COPY] = images[start : start + _COPY].numpy()
    target.flush()
