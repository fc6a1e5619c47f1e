"""Picture files of a directory or a .zip (read in place, never unpacked to disk); one picture as uint8 pixels."""

import io
import os
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steelman.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")  # those of ImageFolder
LARGEST = 2**28  # bytes of one file: more is no picture, or a zip that unfolds without end

_MODES = {
    "L": "greyscale",
    "1": "black and white",
    "LA": "greyscale with transparency",
    "RGBA": "with transparency",
    "P": "with a palette",
}

Read: TypeAlias = Callable[[PurePosixPath], bytes]


@contextmanager
def opened(path: Path) -> Generator[tuple[list[PurePosixPath], Read]]:
    """The names of all pictures in a directory or zip, sorted, and the function that reads one.

    Raises:
        DataError: neither a directory nor a readable zip.
    """
    if path.is_dir():
        names = [
            PurePosixPath(Path(folder, file).relative_to(path).as_posix())
            for folder, _, files in os.walk(path, followlinks=True)
            for file in files
        ]
        yield sorted(filter(_is_picture, names)), lambda name: (path / name).read_bytes()
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(
            f"{path} is no directory and cannot be read as a zip ({error}). Expected a folder of class folders or a "
            "zip of one; a truncated download looks like this too."
        ) from error
    with archive:
        found = {PurePosixPath(info.filename): info for info in archive.infolist() if not info.is_dir()}
        yield sorted(filter(_is_picture, found)), lambda name: _from_zip(archive, found[name])


def pixels(content: bytes, size: int, channels: int, *, short_side: int | None = None, stretch: bool = False) -> Tensor:
    """One picture as uint8 (channels, size, size): short side scaled (bilinear, antialiased), centre cropped.

    The short side is scaled to `short_side`, or to `size` without one; with `stretch` both sides are scaled to `size`.
    Sizes are rounded as in torchvision's Resize and CenterCrop. Any colour mode is converted; 16-bit grey keeps its
    upper 8 bits (rounded), transparency is dropped. Raises whatever the decoder raises on a corrupt file.
    """
    with Image.open(io.BytesIO(content)) as image:
        picture = _eight_bits(image).convert("RGB" if channels == 3 else "L")
    width, height = picture.size
    side = short_side or size
    if stretch:
        width, height = size, size
    elif width <= height:
        width, height = side, int(side * height / width)
    else:
        width, height = int(side * width / height), side
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(resized)).view(size, size, channels).permute(2, 0, 1)


def unlike(content: bytes, channels: int) -> str:
    """What a picture is when it must be converted, such as "CMYK"; nothing for 8-bit colour and, with 1 channel, grey.

    Colour that shall become grey is what was asked for, and not counted.
    """
    with Image.open(io.BytesIO(content)) as image:
        mode = image.mode
    if mode == "RGB" or (mode == "L" and channels == 1):
        return ""
    return _MODES.get(mode, "16-bit" if mode.startswith("I") else mode)


def _is_picture(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not hidden and name.suffix.lower() in ENDINGS


def _from_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > LARGEST:
        raise ValueError(f"{info.file_size:,} bytes, more than any picture")
    return archive.read(info)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture with 8 bits a channel; Pillow itself would clip deeper ones to white."""
    if image.mode == "F":
        raise ValueError("float pixels, whose range is unknown")
    if not image.mode.startswith("I"):
        return image
    deep = np.asarray(image).astype(np.int64)
    if deep.min() < 0 or deep.max() > 65535:
        raise ValueError("32-bit pixels, whose range is unknown")
    return Image.fromarray(((deep + 128) // 257).astype(np.uint8))
