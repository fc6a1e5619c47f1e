"""Sheets of original / perturbation / adversarial images: small PNGs for the page, one PNG file for elsewhere.

Pixels are shown as they are; where an attack left [0, 1] the picture is clipped and the sheet says so. What changed in
grey images is coloured by sign (orange brighter, violet darker, white unchanged), in colour images it is shown
about mid grey, channel by channel; one scale holds for the whole sheet.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from steelman.errors import RunError
from steelman.page import Samples
from steelman.report.palette import LIGHT
from steelman.report.pictures import Batch, Pixels, load, picture, reach, thinned

ENDS = ("#5e3c99", "#e66101")  # ColorBrewer PuOr: told apart by colour-blind readers, white in the middle
_MAP = LinearSegmentedColormap.from_list("change", (ENDS[0], "#ffffff", ENDS[1]))
_WIDE = 10  # images in a row of the file


@dataclass(frozen=True)
class Triple:
    """The three pictures of one image, uint8 RGB."""

    original: Pixels
    change: Pixels
    adversarial: Pixels


@dataclass(frozen=True)
class Sheet:
    """All triples of a sheet, the pixel change drawn in full colour, and what a reader must know."""

    triples: tuple[Triple, ...]
    scale: float
    coloured: bool
    notes: tuple[str, ...]


def read(run_dir: Path, item: Samples) -> Sheet:
    """The pictures of a sheet.

    Raises:
        RunError: the images are missing, unreadable, outside the run, or as many as the predictions are not.
    """
    x, x_adv = _arrays(run_dir, item)
    change = x_adv - x
    scale = float(np.abs(change).max(initial=0.0))
    coloured = x.shape[1] != 1
    triples = tuple(
        Triple(picture(one), _difference(delta, scale or 1.0), picture(adv))
        for one, delta, adv in zip(x, change, x_adv, strict=True)
    )
    return Sheet(triples, scale, coloured, tuple(_notes(x_adv, scale, coloured)))


def whole(item: Samples, sheet: Sheet) -> bytes:
    """The sheet as one PNG on white: columns of original, perturbation, adversarial image with what the model says."""
    num = len(sheet.triples)
    columns, blocks = max(1, min(_WIDE, num)), max(1, -(-num // _WIDE))
    width, height = 1.12 * columns, 4.05 * blocks  # one image is a unit wide; a block is three images and four lines
    with matplotlib.style.context(["default", {"font.size": 9, "text.color": LIGHT["muted"]}]):
        figure = Figure(figsize=(width, height), facecolor=LIGHT["card"])
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for index, triple in enumerate(sheet.triples):
            left, top = 1.12 * (index % _WIDE) + 0.06, 4.05 * (index // _WIDE)
            axes.text(left + 0.5, top + 0.14, f"true: {item.true[index]}", ha="center", va="center")
            for at, picture in ((0.26, triple.original), (1.54, triple.change), (2.6, triple.adversarial)):
                axes.imshow(picture, extent=(left, left + 1, top + at + 1, top + at), interpolation="nearest")
            for at, label, confidence in (
                (1.4, item.before[index], item.before_confidence[index]),
                (3.74, item.after[index], item.after_confidence[index]),
            ):
                right = label == item.true[index]
                words = f"{'✓' if right else '✗'} {label} · {100 * confidence:.0f} %"
                axes.text(left + 0.5, top + at, words, ha="center", va="center", color=LIGHT["ok" if right else "fail"])
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        raw = io.BytesIO()
        figure.savefig(raw, format="png", dpi=150, metadata={"Software": None})
    return raw.getvalue()


def _arrays(run_dir: Path, item: Samples) -> tuple[Batch, Batch]:
    x, x_adv = load(run_dir, item.file, ("x", "x_adv"), f"the sheet {item.name}")
    counts = {len(x), len(x_adv), *(len(part) for part in (item.true, item.before, item.after))}
    counts |= {len(item.before_confidence), len(item.after_confidence)}
    if x.shape != x_adv.shape or x.ndim != 4 or x.shape[1] not in (1, 3) or len(counts) != 1:
        raise RunError(
            f"the sheet {item.name} has images of shape {x.shape} and {x_adv.shape} for {len(item.true)} labels. "
            "Expected x and x_adv of one shape (n, 1 or 3, height, width), one label and two predictions an image."
        )
    return x, x_adv


def _difference(delta: Batch, scale: float) -> Pixels:
    """A perturbation (c h w), +-scale drawn in full."""
    if delta.shape[0] == 1:
        coloured = _MAP(0.5 + delta[0] / (2 * scale), bytes=True)
        return np.asarray(coloured)[..., :3]
    return picture(0.5 + delta / (2 * scale))


def _notes(x_adv: Batch, scale: float, coloured: bool) -> list[str]:
    if scale == 0:
        return ["No pixel was changed."]
    notes = []
    if coloured:
        notes.append(f"Change: mid grey is unchanged, full colour is ±{scale:.3g}, each channel by itself.")
    if outside := reach(x_adv):
        notes.append(
            f"These adversarial pixels run from {outside}: outside 0 to 1, where no real image lies. "
            "They are shown clipped; the model saw them unclipped."
        )
    return [*notes, *filter(None, [thinned(x_adv)])]
