"""A bank of large filters in the frequency domain of the rows: fewer operations than a convolution, the same maps.

Along a row a filter is a product with its Fourier coefficients; down the columns its rows are summed as they are. Both
are matrix products, which a processor does at full speed. A pair of filters, one even and one odd about its centre, as
a complex cell has, needs half of that: rows above and below the centre have conjugate coefficients, so that only sums
and differences of image rows are multiplied, by real numbers.

For 256 simple and 256 complex cells of 25x25 on 28x28 that is 56 million multiplications an image; 1,024 filters,
straightforwardly, take 502 million on one channel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_EXACT = torch.float64


class FilterBank:
    """The maps of filters on images of one width, zeros around them, a filter reading one channel.

    Args:
        single: filters of any form, (n, k, k), k odd.
        even: filters that do not change when turned by 180 degrees, (m, k, k).
        odd: filters that change their sign, (m, k, k).
        channels: which channel each of the n single filters and each of the m pairs reads, (n + m).
        width: of the images, pixels.
        stride: between outputs.
        dtype: of the maps.
    """

    def __init__(
        self,
        single: Tensor,
        even: Tensor,
        odd: Tensor,
        channels: Tensor,
        *,
        width: int,
        stride: int,
        dtype: torch.dtype,
    ) -> None:
        self.pad, self.stride, self.width = even.shape[-1] // 2, stride, width
        self.length = width + self.pad  # of the circle on which no filter reaches round to the other side
        device = even.device
        k = torch.arange(self.length // 2 + 1, dtype=_EXACT, device=device)
        turn = 2 * math.pi * k / self.length
        self.into = _waves(turn, torch.arange(width, dtype=_EXACT, device=device)).to(dtype)
        self.back, self.back_odd = (back.to(dtype) for back in _inverse(turn, k, self.length, width, stride))
        reach = torch.arange(-self.pad, self.pad + 1, dtype=_EXACT, device=device)
        taps = _waves(turn, reach).to(even.dtype)
        self.single = _single_factors(single, taps).to(dtype)
        self.even = _even_rows(even, taps).repeat(2, 1, 1).to(dtype)  # once for real, once for imaginary parts
        self.odd = _odd_rows(odd, taps).repeat(2, 1, 1).to(dtype)
        self.split = [
            ((channels[: len(single)] == c).nonzero().squeeze(1), (channels[len(single) :] == c).nonzero().squeeze(1))
            for c in channels.unique().tolist()
        ]
        self.used = channels.unique().tolist()

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of the single, the even and the odd filters: (n, b, rows, columns) and twice (m, b, rows, columns)."""
        if len(self.used) == 1:
            return self._maps(x[:, self.used[0]], self.single, self.even, self.odd)
        parts = [
            self._maps(x[:, c], self.single[:, rows], self.even[:, pairs], self.odd[:, pairs])
            for c, (rows, pairs) in zip(self.used, self.split, strict=True)
        ]
        orders = (torch.cat([one[kind] for one in self.split]).argsort() for kind in (0, 1, 1))
        gathered = (torch.cat([part[kind] for part in parts]) for kind in range(3))
        single, even, odd = (maps[order] for maps, order in zip(gathered, orders, strict=True))
        return single, even, odd

    def _maps(self, x: Tensor, single: Tensor, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same for one channel: x is (b, height, width)."""
        sums = self._row_sums(x)
        parts, images, rows = sums.shape[0] // 2, len(x), sums.shape[2] // len(x)
        both = sums.unflatten(0, (2, parts)).transpose(0, 1).flatten(1, 2)  # (frequencies, 2 taps, b rows)
        halves = both.expand(2, -1, -1, -1).flatten(0, 1)
        maps = (
            _spread(torch.bmm(single, halves), self.back),
            _spread(torch.bmm(even, sums), self.back),
            _spread(torch.bmm(odd, sums), self.back_odd),
        )
        first, second, third = (one.unflatten(1, (images, rows)) for one in maps)
        return first, second, third

    def _row_sums(self, x: Tensor) -> Tensor:
        """Spectra of image rows, folded about each output's row: (2 frequencies, taps, b rows), real before imaginary.

        The taps are the centre row, the sums of the rows above and below at each distance, and -i times their
        differences.
        """
        spectra = (x @ self.into.t()).unflatten(2, (2, -1)).permute(2, 3, 0, 1)  # (2, frequencies, b, height)
        windows = F.pad(spectra, (self.pad, self.pad)).unfold(3, 2 * self.pad + 1, self.stride)
        centre, below, above = (
            windows[..., self.pad : self.pad + 1],
            windows[..., self.pad + 1 :],
            windows[..., : self.pad].flip(-1),
        )
        real, imaginary = below - above
        turned = torch.stack((imaginary, -real))
        return torch.cat((centre, below + above, turned), dim=-1).flatten(0, 1).flatten(1, 2).transpose(1, 2)


def _spread(spectra: Tensor, back: Tensor) -> Tensor:
    """From (2 frequencies, filters, b rows) to (filters, b rows, columns)."""
    return (spectra.flatten(1).t() @ back).view(*spectra.shape[1:], back.shape[1])


def _waves(turn: Tensor, places: Tensor) -> Tensor:
    """exp(-i turn place) as real rows, then imaginary rows: (2 frequencies, places)."""
    angle = turn[:, None] * places
    return torch.cat((angle.cos(), -angle.sin()))


def _inverse(turn: Tensor, k: Tensor, length: int, width: int, stride: int) -> tuple[Tensor, Tensor]:
    """The way back from half a spectrum to the columns of the output; and the same from i times it."""
    angle = turn[:, None] * torch.arange(0, width, stride, dtype=turn.dtype, device=turn.device)
    weight = (2 - ((k == 0) | (2 * k == length)).to(turn.dtype))[:, None] / length
    cos, sin = weight * angle.cos(), weight * angle.sin()
    return torch.cat((cos, -sin)), torch.cat((-sin, -cos))


def _coefficients(filters: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's Fourier coefficients, real and imaginary: (frequencies, filters, rows) twice."""
    both = torch.einsum("muv,kv->kmu", filters, taps)
    return both[: len(taps) // 2], both[len(taps) // 2 :]


def _even_rows(filters: Tensor, taps: Tensor) -> Tensor:
    """Factors of an even filter on the folded rows: (frequencies, filters, taps)."""
    real, imaginary = _coefficients(filters, taps)
    centre = filters.shape[-1] // 2
    return torch.cat((real[..., centre:], imaginary[..., centre + 1 :]), dim=-1)


def _odd_rows(filters: Tensor, taps: Tensor) -> Tensor:
    """Factors of an odd filter, divided by i."""
    real, imaginary = _coefficients(filters, taps)
    centre = filters.shape[-1] // 2
    return torch.cat((-imaginary[..., centre:], real[..., centre + 1 :]), dim=-1)


def _single_factors(filters: Tensor, taps: Tensor) -> Tensor:
    """Factors of any filters, from their even and odd parts: (2 frequencies, filters, 2 taps)."""
    turned = filters.flip(1, 2)
    even, odd = _even_rows((filters + turned) / 2, taps), _odd_rows((filters - turned) / 2, taps)
    return torch.cat((torch.cat((even, -odd), dim=-1), torch.cat((odd, even), dim=-1)))
