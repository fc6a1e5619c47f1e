"""Reconstruction of MNIST features (FC100's 100 units): steelman against the published rule, one image a call.

Usage: inversion.py RUN [images] [rounds], RUN being a trained FC100. Gate: median relative error not above that of the
published rule on the same images and starts. Both sides in one process, in turn.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from nets import images
from timing import interleaved, ratio, table, verdict
from torch import Tensor, nn

from steelman.engine import guarded
from steelman.features import Inversion
from steelman.features.inversion import Inverted, invert, random_starts
from steelman.features.mean_gauss_newton import MeanGaussNewton
from steelman.features.normalised_gradient import NormalisedGradient
from steelman.train import load_run

STEPS, DECAY, CHANGE, LAYER = 100, 0.996, 1e-3, "features.8"
SINGLE = 20  # images of the one-image-a-call loop, whose time is scaled up


def main() -> None:
    """Print times, residuals and verdicts."""
    model = load_run(Path(sys.argv[1])).model
    num = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    x = images(num).pixels()
    start = random_starts(x, num, torch.Generator().manual_seed(1))
    published = invert(model, LAYER, x, start, NormalisedGradient())
    goal = float(published.relative.median())
    found: dict[str, Inverted] = {}

    def ours() -> None:
        found["ours"] = invert(model, LAYER, x, start, MeanGaussNewton(), tolerance=goal)

    seconds = interleaved(
        {"steelman": ours, "one image a call": lambda: _loop(model, x[:SINGLE], start[:SINGLE])}, rounds
    )
    seconds["one image a call"] = [time * num / SINGLE for time in seconds["one image a call"]]
    print(f"{num} images, published rule: median relative error {goal:.4f}")
    table(seconds)
    mine = found["ours"]
    gradients = float(mine.gradients.float().mean())
    print(f"  steelman: median {float(mine.relative.median()):.4f}, {gradients:.1f} gradients an image")
    if float(mine.relative.median()) > goal:
        print("  no ratio: the median relative error is above the published rule's")
        return
    value = ratio(seconds, "one image a call", "steelman")
    verdict("one image a call / steelman", value, ">= 10", holds=value >= 10)
    rate = num / min(seconds["steelman"])
    verdict("images a second", rate, ">= 100", holds=rate >= 100)
    _equal_time(ours, mine, lambda rule: invert(model, LAYER, x, start, rule), rounds)


def _equal_time(
    ours: Callable[[], None], mine: Inverted, published: Callable[[Inversion], Inverted], rounds: int
) -> None:
    """The published rule, batched in the same engine, with as many gradients as it computes in our time."""
    budget = max(1, round(float(mine.gradients.float().mean())))
    same = NormalisedGradient(steps=budget, change=0.0)
    seconds = interleaved({"steelman": ours, "published rule, batched": lambda: published(same)}, rounds)
    table(seconds)
    budget = max(budget, math.ceil(budget / ratio(seconds, "published rule, batched", "steelman")))
    equal = published(NormalisedGradient(steps=budget, change=0.0))
    lower = 100 * float((mine.residual < equal.residual).float().mean())
    verdict(f"% of images with a lower residual in equal time ({budget} gradients)", lower, ">= 95", holds=lower >= 95)


def _loop(model: nn.Sequential, x: Tensor, start: Tensor) -> list[Tensor]:
    """The published protocol for one image after the other, as its authors run it."""
    features, made = nn.Sequential(model.features), []
    with guarded(model):
        for one, begin in zip(x, start, strict=True):
            with torch.no_grad():
                target = features(one[None])
            z, before = begin[None], 0.0
            for step in range(STEPS):
                z = z.detach().requires_grad_()
                with torch.enable_grad():
                    distance = (features(z) - target).norm()
                    (grad,) = torch.autograd.grad(distance, z)
                if abs(float(distance.detach()) - before) < CHANGE:
                    break
                before = float(distance.detach())
                z = (z - DECAY**step * grad / grad.norm().clamp_min(1e-12)).clamp(0, 1)
            made.append(z.detach())
    return made


if __name__ == "__main__":
    main()
