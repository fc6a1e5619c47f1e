"""Label-free statistics of an image, and how well each tells two sets of images apart."""

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from steelman.errors import UsageError
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


_ROUNDS = 20  # of a bootstrap that are held in memory together


def auc(
    positive: Tensor, negative: Tensor, *, confidence: float = 0.95, rounds: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """The area under the ROC curve of a statistic that is larger in `positive`, with its bootstrap interval.

    Raises:
        UsageError: one of the sets is empty.
    """
    if not len(positive) or not len(negative):
        raise UsageError("an area under the ROC curve needs values of both sets.")
    first, second = (values.double().cpu().numpy()[None] for values in (positive, negative))
    random = np.random.default_rng(seed)
    areas: list[np.ndarray] = []
    for size in (min(_ROUNDS, rounds - done) for done in range(0, rounds, _ROUNDS)):
        areas.append(_areas(*(random.choice(values[0], (size, values.size)) for values in (first, second))))
    low, high = np.quantile(np.concatenate(areas), ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(_areas(first, second)[0]), float(low), float(high)


def _areas(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """For each row the share of pairs that are in order, a tie counting half: Mann and Whitney's U."""
    pairs = positive.shape[1] * negative.shape[1]
    from scipy import stats  # a second to import, which every study would pay

    return stats.mannwhitneyu(positive, negative, axis=1, method="asymptotic").statistic / pairs
