"""Adversarial images as files for elsewhere: one .npz or .safetensors, or a folder of 8-bit PNG files with an index."""

import csv
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from steelman.errors import RunError, UsageError
from steelman.evaluate import Outcome, check_pixels
from steelman.files import draft_of, replacing
from steelman.stats import Share
from steelman.types import Images

INDEX = "index.csv"
_COLUMNS = ("file", "index", "label", "before", "after", "broken", "survives", "distance")


def export(outcome: Outcome, x: Images, path: Path) -> Path:
    """Write the images of an outcome beside their originals, all or nothing; returns the path.

    `.npz` and `.safetensors` hold float32 x_adv and x, y, before, after, broken and distance, one row an image. A
    folder gets one PNG an image, INDEX_LABEL_PREDICTION.png, where the prediction is that on the float32 pixels, and
    index.csv, whose column `survives` says which broken images the rounding to 8 bits leaves broken.

    Args:
        outcome: what a strike did.
        x: the originals that were struck.
        path: FILE.npz, FILE.safetensors or a folder; a file is replaced, a folder must be new or empty.

    Raises:
        PixelError: originals that are no float32 images in [0, 1].
        UsageError: another ending, originals of another shape, images that PNG cannot hold.
        RunError: a folder that is not empty, no room, or a place that is not writable.
    """
    check_destination(path)
    x = check_pixels(x)
    if x.shape != outcome.x_adv.shape:
        raise UsageError(
            f"originals of shape {tuple(x.shape)} for adversarial images of shape {tuple(outcome.x_adv.shape)}. "
            "Give the images that were struck."
        )
    if _is_folder(path):
        _write_folder(outcome, path)
        return path
    tensors = {"x_adv": outcome.x_adv, "x": x}
    tensors |= {name: getattr(outcome, name) for name in ("y", "before", "after", "broken", "distance")}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as (draft,):
        if path.suffix == ".npz":
            with draft.open("wb") as file:  # given a name, numpy would put its own ending behind it
                np.savez_compressed(file, allow_pickle=False, **{n: tensor.numpy() for n, tensor in tensors.items()})
        else:
            save_file(tensors, draft)
    return path


def check_destination(path: Path) -> None:
    """See that `export` can write there, before anything is computed.

    Raises:
        UsageError: the ending is none of .npz, .safetensors and that of a folder.
        RunError: a folder that is not empty, or a folder in the place of a file.
    """
    if path.suffix and path.suffix not in (".npz", ".safetensors") and not path.is_dir():
        raise UsageError(
            f"cannot export to {path}: nothing is known of {path.suffix}. "
            "Possible: FILE.npz, FILE.safetensors, or a folder (no ending) for PNG files."
        )
    if not _is_folder(path):
        if path.is_dir():
            raise RunError(f"{path} is a folder. Give a file, or a folder without that ending.")
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} is there already and not an empty folder. Give a new one, or delete it.")


def share_lost(outcome: Outcome) -> Share:
    """The share of the broken images that are no longer broken when rounded to 8 bits, as in a PNG."""
    return Share.of(~outcome.survives[outcome.broken])


def is_lossy(path: Path) -> bool:
    """Whether what is written there is rounded to 8 bits."""
    return _is_folder(path)


def _is_folder(path: Path) -> bool:
    return path.suffix not in (".npz", ".safetensors")


def _write_folder(outcome: Outcome, path: Path) -> None:
    """All files into a folder beside the final one, which then takes its place."""
    pictures = _pictures(outcome.x_adv)
    draft = draft_of(path)
    try:
        draft.mkdir(parents=True)
        with (draft / INDEX).open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(_COLUMNS)
            for index, picture in enumerate(pictures):
                name = f"{index:05d}_{int(outcome.y[index])}_{int(outcome.after[index])}.png"
                Image.fromarray(picture).save(draft / name)
                rows.writerow((name, index, *_facts(outcome, index)))
        draft.replace(path)
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror or error}). Make room or give a folder that you may write."
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _facts(outcome: Outcome, index: int) -> tuple[int | float | str, ...]:
    numbers = [int(getattr(outcome, name)[index]) for name in ("y", "before", "after", "broken", "survives")]
    distance = float(outcome.distance[index])
    return (*numbers, f"{distance:.6g}" if outcome.broken[index] else "")


def _pictures(x_adv: Tensor) -> list[NDArray[np.uint8]]:
    if x_adv.shape[1] not in (1, 3):
        raise UsageError(f"images of {x_adv.shape[1]} channels. A PNG holds 1 or 3; export to .npz or .safetensors.")
    levels = (x_adv.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return [image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy() for image in levels]
