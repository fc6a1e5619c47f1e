"""Images of a run as pixels, and pixels as PNG text: what sheets and grids of images share.

Pixels are shown as they are: clipped to [0, 1], never smoothed or stretched in value.
"""

import base64
import io
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from steelman.errors import RunError

Pixels: TypeAlias = NDArray[np.uint8]  # height, width, 3
Batch: TypeAlias = NDArray[np.float32]  # n, channels, height, width

LARGEST = 160  # pixels of a side on the page: larger images are thinned out, so that a page stays small


def load(run_dir: Path, file: str, names: tuple[str, ...], what: str) -> tuple[Batch, ...]:
    """Arrays of a safetensors file of a run, float32, NaN as 0.

    Raises:
        RunError: the file lies outside the run, is missing or unreadable, or lacks a name; `what` says for which item.
    """
    path = (run_dir / file).resolve()
    if not path.is_relative_to(run_dir.resolve()):
        raise RunError(f"{what} names {file}, outside {run_dir}. Expected a file of the run itself.")
    try:
        arrays = load_file(path)
        return tuple(np.nan_to_num(arrays[name].astype(np.float32)) for name in names)
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(
            f"the images of {what} cannot be read from {path} ({error}). "
            f"Expected safetensors with {' and '.join(names)}; run the study again to make them."
        ) from None


def picture(image: Batch) -> Pixels:
    """An image (c h w) as RGB, clipped to [0, 1]."""
    pixels = np.rint(255 * image.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def data_uri(pixels: Pixels) -> str:
    """A PNG as text, thinned out to at most 160 pixels a side."""
    step = -(-max(pixels.shape[:2]) // LARGEST)
    raw = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[::step, ::step])).save(raw, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(raw.getvalue()).decode()


def reach(x: Batch) -> str:
    """The range of values where it leaves [0, 1], in words; nothing where it does not."""
    low, high = float(x.min(initial=0.0)), float(x.max(initial=1.0))
    return f"{low:.2f} to {high:.2f}".replace("-", "−") if low < -1e-6 or high > 1 + 1e-6 else ""


def thinned(x: Batch) -> str:
    """What to say of images that are too large for the page; nothing where they are not."""
    return f"Images of {x.shape[3]} × {x.shape[2]} pixels are thinned out here." if max(x.shape[2:]) > LARGEST else ""
