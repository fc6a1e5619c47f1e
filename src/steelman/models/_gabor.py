"""Gabor filters as the cells of primary visual cortex are tuned, for the V1 front end.

Dapello et al. 2020 (VOneNet, NeurIPS) drew each parameter from what physiologists measured: orientation and spatial
frequency from De Valois, Yund & Hepler 1982 and De Valois, Albrecht & Thorell 1982, the receptive field's widths from
Ringach 2002, tied to the frequency by Schiller, Finlay & Volman 1976.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from steelman.errors import UsageError

Values: TypeAlias = NDArray[np.float64]

ORIENTATION_EDGES = (-22.5, 22.5, 67.5, 112.5, 157.5)  # degrees
ORIENTATION_CELLS = (66, 49, 77, 54)
FREQUENCY_EDGES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # cycles per degree
FREQUENCY_CELLS = (4, 4, 8, 25, 32, 26, 28, 12)
FREQUENCY_WIDTH = 0.75  # correlation of a field's width, in its own wave lengths, with its frequency

# Widths along and across the wave, times the frequency, in five bins of equal ratio from 10^-1 to 10^0.2. Cells lie
# along the diagonal, a little longer than wide (Ringach 2002, figure 4). The counts are ours, set so that at 28 pixels
# per degree and up to 6 cycles per degree the median widths are 4.1 and 4.6 pixels; the published front end has 4.0
# and 4.8.
WIDTH_EDGES = tuple(10 ** (-1 + 0.24 * i) for i in range(6))
WIDTH_CELLS = (
    (8, 6, 3, 0, 0),
    (4, 11, 10, 4, 1),
    (1, 8, 17, 12, 4),
    (1, 2, 7, 13, 6),
    (0, 1, 1, 2, 3),
)


@dataclass(frozen=True, eq=False)
class Gabors:
    """The parameters of a set of Gabor filters, one entry a filter, float64.

    `frequency` is in cycles per pixel, `across` and `along` are the envelope's standard deviations in pixels in the
    direction of the wave and at right angles to it, `angle` and `phase` are in radians.
    """

    frequency: Tensor
    angle: Tensor
    phase: Tensor
    across: Tensor
    along: Tensor


def draw(num: int, *, pixels_per_degree: float, sf_max: float, seed: int) -> Gabors:
    """Parameters of `num` filters; no frequency is above `sf_max` or above what the pixels can carry.

    Args:
        num: how many.
        pixels_per_degree: of visual angle.
        sf_max: cycles per degree.
        seed: of the draw.

    Raises:
        UsageError: no frequency of the measured ones, from 0.5 cycles per degree on, is left.
    """
    highest = min(sf_max, pixels_per_degree / 2)
    if highest <= FREQUENCY_EDGES[0]:
        raise UsageError(
            f"frequencies up to {highest:.3g} cycles per degree are left by sf_max={sf_max:g} and "
            f"{pixels_per_degree:.3g} pixels per degree, half of which is the highest that pixels carry. Expected more "
            f"than {FREQUENCY_EDGES[0]}: give a larger sf_max, or fewer visual_degrees."
        )
    random = np.random.Generator(np.random.PCG64(seed))
    angle = _stepwise(random.random(num), np.array(ORIENTATION_EDGES), np.array(ORIENTATION_CELLS, dtype=float))
    phase = 360 * random.random(num)
    normal = random.standard_normal((2, num))
    tied = FREQUENCY_WIDTH * normal[0] + math.sqrt(1 - FREQUENCY_WIDTH**2) * normal[1]
    edges, cells = _below(FREQUENCY_EDGES, FREQUENCY_CELLS, highest)
    frequency = np.exp2(_stepwise(special.ndtr(normal[0]), np.log2(edges), cells)) / pixels_per_degree
    log_edges, table = np.log10(WIDTH_EDGES), np.array(WIDTH_CELLS, dtype=float)
    across = _stepwise(special.ndtr(tied), log_edges, table.sum(1))
    rows = np.clip(np.searchsorted(log_edges, across, side="right") - 1, 0, len(table) - 1)
    place = random.random(num)
    along = np.choose(rows, [_stepwise(place, log_edges, row) for row in table])
    return Gabors(
        torch.from_numpy(frequency),
        torch.from_numpy(np.deg2rad(angle)),
        torch.from_numpy(np.deg2rad(phase)),
        torch.from_numpy(10**across / frequency),
        torch.from_numpy(10**along / frequency),
    )


def waves(gabors: Gabors, ksize: int) -> tuple[Tensor, Tensor]:
    """The even and the odd filter of each set of parameters, (filters, ksize, ksize): envelope times cosine and sine.

    The filter of phase p is cos(p) even - sin(p) odd.
    """
    reach = torch.arange(ksize, dtype=gabors.frequency.dtype, device=gabors.frequency.device) - (ksize - 1) / 2
    down, right = reach.view(1, -1, 1), reach.view(1, 1, -1)
    frequency, angle, across, along = (
        values.view(-1, 1, 1) for values in (gabors.frequency, gabors.angle, gabors.across, gabors.along)
    )
    wave = right * angle.cos() + down * angle.sin()
    crest = down * angle.cos() - right * angle.sin()
    envelope = torch.exp(-((wave / across) ** 2 + (crest / along) ** 2) / 2) / (2 * math.pi * across * along)
    turn = 2 * math.pi * frequency * wave
    return envelope * turn.cos(), envelope * turn.sin()


def _stepwise(uniform: Values, edges: Values, cells: Values) -> Values:
    """The quantiles of a histogram with equal density inside each bin."""
    shares = np.concatenate(([0.0], np.cumsum(cells) / np.sum(cells)))
    return np.asarray(np.interp(uniform, shares, edges))


def _below(edges: tuple[float, ...], cells: tuple[int, ...], highest: float) -> tuple[Values, Values]:
    """The histogram cut at `highest`; the last bin keeps the part of its cells that lies below, on the log scale."""
    kept, counts = [edges[0]], [0.0]
    for low, high, count in zip(edges[:-1], edges[1:], cells, strict=True):
        if low < highest:
            end = min(high, highest)
            kept.append(end)
            counts.append(count * math.log(end / low) / math.log(high / low))
    return np.array(kept), np.array(counts[1:])
