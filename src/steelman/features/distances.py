"""How far reconstructed images are from their originals, and images of a set from each other: L2, pixels in [0, 1]."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from steelman.errors import UsageError
from steelman.types import Images, PerExample


def to_originals(x: Images, originals: Tensor) -> PerExample:
    """The L2 distance of each image to its original.

    Raises:
        UsageError: sets of different shape.
    """
    if x.shape != originals.shape:
        raise UsageError(f"images of shape {tuple(x.shape)} and originals of {tuple(originals.shape)}. Give one each.")
    return (x - originals).flatten(1).norm(dim=1)


def of_pairs(x: Images, num: int, generator: Generator) -> Float[Tensor, " n"]:
    """The L2 distances of `num` random pairs of different images of a set.

    Raises:
        UsageError: fewer than two images.
    """
    if len(x) < 2:
        raise UsageError(f"a set of {len(x)} images has no pair. Expected two images or more.")
    first = torch.randint(len(x), (num,), generator=generator, device=x.device)
    other = torch.randint(len(x) - 1, (num,), generator=generator, device=x.device)
    other += (other >= first).long()  # uniform over all images but the first one
    return (x[first] - x[other]).flatten(1).norm(dim=1)


def nearest(x: Images, others: Tensor) -> PerExample:
    """The L2 distance of each image to the nearest of the others."""
    return torch.cat([torch.cdist(part.flatten(1), others.flatten(1)).amin(1) for part in x.split(256)])


def shared_bins(samples: Sequence[Tensor], num: int = 40) -> Float[Tensor, " e"]:
    """The edges of `num` equal bins that hold every finite value of all samples.

    Raises:
        UsageError: no finite value.
    """
    values = torch.cat([sample[sample.isfinite()] for sample in samples])
    if len(values) == 0:
        raise UsageError("there is no finite value to put into bins.")
    low, high = float(values.min()), float(values.max())
    return torch.from_numpy(np.histogram_bin_edges([low, high], num)).float()


def shares(sample: Float[Tensor, " n"], edges: Float[Tensor, " e"]) -> tuple[float, ...]:
    """The share of the sample's finite values in each bin; values beyond the edges count in the outer bins."""
    finite = sample[sample.isfinite()].cpu().clamp(float(edges[0]), float(edges[-1]))
    counts, _ = np.histogram(finite.double().numpy(), edges.double().numpy())
    return tuple((counts / max(1, len(finite))).tolist())
