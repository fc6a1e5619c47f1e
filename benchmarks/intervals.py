"""Interval bounds of SmallCNN on MNIST's test images against one forward pass over the same images.

Usage: intervals.py [images] [rounds]. Gate: every bound lies below the margin that the forward pass gives.
"""

import sys

import torch
from nets import images, net
from timing import interleaved, ratio, table, verdict

from steelman.certify.interval import Interval
from steelman.engine import guarded, predict
from steelman.losses import margin
from steelman.threats import Linf

EPS = 0.001


def main() -> None:
    """Print the times and the verdict."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    model, data = net("trades").eval(), images(num)
    x, y = data.pixels(), data.labels
    found: dict[str, torch.Tensor] = {}

    def forward() -> None:
        with guarded(model):
            found["forward"] = -margin(predict(model, x), y)

    def bounds() -> None:
        found["bounds"] = Interval().margins(model, x, y, Linf(EPS))

    seconds = interleaved({"a forward pass": forward, "interval bounds": bounds}, rounds)
    print(f"{num:,} images, SmallCNN, {float((found['bounds'] > 0).float().mean()):.1%} proven within Linf({EPS:g})")
    table(seconds)
    if not (found["bounds"] <= found["forward"]).all():
        print("  no ratio: a bound lies above the margin")
        return
    value = ratio(seconds, "interval bounds", "a forward pass")
    verdict("interval bounds / a forward pass", value, "<= 3", holds=value <= 3)


if __name__ == "__main__":
    main()
