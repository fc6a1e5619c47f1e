"""Label-free statistics of an image, and how well each tells two sets of images apart."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from steelman.errors import UsageError
from steelman.stats import clopper_pearson, placements
from steelman.types import Images, PerExample

_MIDDLE = (0.2, 0.8)  # grey values that clean digits hardly have
_BRIGHT = 0.3


def total_variation(x: Images) -> PerExample:
    """The mean size of the differences between neighbouring pixels."""
    down, right = (x[:, :, 1:] - x[:, :, :-1]).abs(), (x[:, :, :, 1:] - x[:, :, :, :-1]).abs()
    return (down.flatten(1).sum(1) + right.flatten(1).sum(1)) / (down[0].numel() + right[0].numel())


def grey_share(x: Images) -> PerExample:
    """The share of values between .2 and .8."""
    return ((x > _MIDDLE[0]) & (x < _MIDDLE[1])).flatten(1).float().mean(1)


def brightness(x: Images) -> PerExample:
    """The mean value."""
    return x.flatten(1).mean(1)


def high_frequencies(x: Images) -> PerExample:
    """The share of the spectrum's energy, without the mean's, at more than half of the highest frequency."""
    energy = torch.fft.fft2(x.double()).abs().square().sum(1)
    rows, columns = (torch.fft.fftfreq(size).abs() for size in energy.shape[1:])
    high = torch.maximum(rows[:, None], columns[None, :]) > 0.25
    energy[:, 0, 0] = 0
    whole = energy.flatten(1).sum(1)
    return ((energy * high).flatten(1).sum(1) / whole.clamp_min(torch.finfo(energy.dtype).tiny)).to(x.dtype)


def pieces(x: Images) -> PerExample:
    """The number of connected regions brighter than .3, in the brightest channel."""
    bright = (x.amax(1) > _BRIGHT).cpu().numpy()
    numbered = [np.asarray(ndimage.label(one, output=np.int32)[0]) for one in bright]  # type: ignore[index]
    return torch.tensor([float(one.max()) for one in numbered], dtype=x.dtype)


STATISTICS: dict[str, Callable[[Images], PerExample]] = {
    "total variation": total_variation,
    "share of grey values": grey_share,
    "brightness": brightness,
    "high frequencies": high_frequencies,
    "pieces": pieces,
}


def auc(positive: Tensor, negative: Tensor, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """The area under the ROC curve of a statistic that is larger in `positive`, with its interval.

    Both values (n,) at a place are of the same image: images are the sample, not values. The interval is that of
    DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), on the logit's scale; where that sees no spread, as of
    values that are all in order, the exact one of n // 2 comparisons of different images.

    Raises:
        UsageError: no values, or not as many of both.
    """
    if not len(positive) or len(positive) != len(negative):
        raise UsageError(
            f"an area under the ROC curve was asked for of {len(positive)} and {len(negative)} values. Expected as "
            "many of both, one or more: a pair an image."
        )
    above, below = placements(*(values.double().cpu().numpy() for values in (positive, negative)))
    area, images = float(above.mean()), len(above)
    error = float((above + below).var(ddof=images > 1)) / images
    if not 0 < area < 1 or error < 1e-12:
        return area, *clopper_pearson(round(area * (images // 2)), images // 2, confidence)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(error) / (area * (1 - area))
    low, high = torch.tensor([-reach, reach], dtype=torch.float64).add(math.log(area / (1 - area))).sigmoid().tolist()
    return area, low, high
