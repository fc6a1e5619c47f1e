"""Optimality: how near an attack comes to the best that is known, over all radii at once.

AttackBench (Cina et al. 2024, arXiv:2404.19460): 1 - (A - A*) / (clean accuracy * d_max - A*), where A is the area
under robust accuracy over distance, from 0 to d_max, and A* that under the lower envelope of all attacks compared: the
least distance known for each image. d_max is the largest finite distance of the envelope, as in the authors' code
(attackbench/AttackBench:analysis/utils.py): where the best that is known has broken all that it breaks. They join the
steps of robust accuracy by straight lines; here the areas are those of the steps themselves, and exact.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steelman.errors import UsageError
from steelman.types import PerExample


def optimality(distances: Sequence[PerExample]) -> list[float]:
    """The optimality of each attack among all of them: 1 where none is nearer on any image, 0 where it finds nothing.

    `distances` holds for each attack one distance an image: inf where it found nothing, NaN where the image was wrong
    from the start (or 0 for all); a random model may break at distance 0. Images that no attack breaks say nothing and
    are the same for all. NaN where the formula has no value: no attack broke an image that was right, or all break at
    the same least distance.

    Raises:
        UsageError: no attack, no image, or distances of different images.
    """
    known = _stacked(distances)
    best = known.amin(0)
    limit = largest(distances)
    areas, least = known.clamp_max(limit).mean(1), best.clamp_max(limit).mean()
    widest = (known > 0).any(0).double().mean() * limit  # of an attack that finds nothing
    if widest <= least:
        return [math.nan] * len(known)
    return [float(1 - (area - least) / (widest - least)) for area in areas]


def largest(distances: Sequence[PerExample]) -> float:
    """d_max: the largest finite distance of the lower envelope; 0 where nothing was broken."""
    best = _stacked(distances).amin(0)
    finite = best[best.isfinite()]
    return float(finite.max()) if len(finite) else 0.0


def envelope(distances: Sequence[PerExample]) -> PerExample:
    """The least distance known for each image: inf where no attack broke it, 0 where it was wrong from the start."""
    return _stacked(distances).amin(0)


def _stacked(distances: Sequence[PerExample]) -> Tensor:
    """(attacks, images) in float64, images that were wrong from the start at distance 0."""
    if not distances or len({len(one) for one in distances}) != 1 or not len(distances[0]):
        lengths = ", ".join(str(len(one)) for one in distances) or "none"
        raise UsageError(
            f"optimality of attacks with {lengths} images. Expected one attack or more on the same images."
        )
    known = torch.stack([one.double() for one in distances])
    wrong = known.isnan()
    if bool((wrong.any(0) & ~((known == 0) | wrong).all(0)).any()):
        raise UsageError("attacks were given on different images: some are wrong from the start for one attack only.")
    return known.nan_to_num(nan=0.0, posinf=math.inf)
