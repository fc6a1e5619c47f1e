"""The V1 front end on 28x28 grey images, forward and backward to the image, against its straightforward forms.

Straightforward as published: every filter twice (q0 and q1 of every cell) on three channels, a grey image repeated; and
the same on one channel. Gate: maps after the cells equal to 1e-5 of the largest, noise left out on all sides.
"""

import math
import sys

import torch
import torch.nn.functional as F
from timing import interleaved, ratio, table, verdict
from torch import Tensor

from steelman.models import _gabor
from steelman.models._cells import GAIN, complex_cells
from steelman.models.v_one import FrontEnd, VOne

SPEC = VOne(image_size=224, noise=None)
NUM = 16


def main() -> None:
    """Print the times and the verdicts."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    front = FrontEnd(SPEC, (1, 28, 28))
    x = torch.rand(NUM, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x = x * (x > 0.7)
    weight = torch.randn(SPEC.bottleneck, 512, generator=torch.Generator().manual_seed(1)) / 512
    kernels = _both_phases()

    def ours(images: Tensor) -> Tensor:
        maps = front.cells(*front.filters.bank(images)(images), "smooth")
        return (weight @ maps.flatten(1)).view(-1, len(images), 28, 28).transpose(0, 1)

    def straight(images: Tensor) -> Tensor:
        kernel = kernels.repeat(1, images.shape[1], 1, 1) / images.shape[1]
        q0, q1 = F.conv2d(images, kernel, padding=SPEC.ksize // 2).chunk(2, dim=1)
        cells = torch.cat((q0[:, : SPEC.simple].relu(), complex_cells(q0, q1, "smooth")[:, SPEC.simple :]), dim=1)
        return F.conv2d(cells * GAIN, weight[:, :, None, None])

    grey3 = x.repeat(1, 3, 1, 1)
    ways = {
        "steelman": lambda: _both_passes(ours, x),
        "straightforward, one channel": lambda: _both_passes(straight, x),
        "straightforward, three channels": lambda: _both_passes(straight, grey3),
    }
    expected, found = straight(x.double().float()), ours(x)
    error = float((found - expected).abs().max() / expected.abs().max())
    verdict("largest difference / largest value", error, "<= 1e-5", holds=error <= 1e-5)
    if error > 1e-5:
        return
    seconds = interleaved(ways, rounds)
    print(f"{NUM} images, forward and backward to the image:")
    table(seconds)
    for name in list(ways)[1:]:
        value = ratio(seconds, name, "steelman")
        verdict(f"{name} / steelman", value, ">= 3", holds=value >= 3)


def _both_passes(function: object, x: Tensor) -> None:
    for part in x.split(8):
        leaf = part.clone().requires_grad_()
        assert callable(function)
        torch.autograd.grad(function(leaf).square().sum(), leaf)


def _both_phases() -> Tensor:
    """Filters of all cells at their phase, then a quarter wave on."""
    cells = SPEC.simple + SPEC.complex
    gabors = _gabor.draw(cells, pixels_per_degree=28.0, sf_max=SPEC.sf_max, seed=SPEC.seed)
    even, odd = _gabor.waves(gabors, SPEC.ksize)
    phases = [(gabors.phase + turn).view(-1, 1, 1) for turn in (0.0, math.pi / 2)]
    return torch.cat([phase.cos() * even - phase.sin() * odd for phase in phases])[:, None].float()


if __name__ == "__main__":
    main()
