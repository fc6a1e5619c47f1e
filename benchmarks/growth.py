"""Cost as the work grows: PGD-10 on 1,000 and on 10,000 MNIST test images, TRADES SmallCNN, and the memory it takes.

Usage: growth.py [rounds]. Gate: the first 1,000 images fare alike in both.
"""

import resource
import sys

import torch
from nets import images, net
from timing import interleaved, ratio, table, verdict

from steelman.attacks.pgd import PGD
from steelman.threats import Linf

FEW, MANY = 1_000, 10_000


def main() -> None:
    """Print times, memory and verdicts."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    model, data = net("trades").eval(), images(MANY)
    x, y = data.pixels(), data.labels
    attack, found = PGD(steps=10, random_start=False), {}

    def on(num: int) -> None:
        found.pop(num, None)
        found[num] = attack.run(model, x[:num], y[:num], Linf(0.3))

    on(FEW)
    before = _peak_mib()
    seconds = interleaved({str(num): lambda num=num: on(num) for num in (FEW, MANY)}, rounds)
    table(seconds)
    if not torch.equal(found[FEW].success, found[MANY].success[:FEW]):
        print("  no ratio: the first images fare otherwise among more")
        return
    value = ratio(seconds, str(MANY), str(FEW)) * FEW / MANY
    verdict(f"an image among {MANY:,} / among {FEW:,}", value, "0.9 to 1.1", holds=0.9 <= value <= 1.1)
    returned = 4 * (MANY - FEW) * x[0].numel() / 2**20
    value = _peak_mib() - before - returned
    verdict("MiB more, beside the images that are returned", value, "<= 50", holds=value <= 50)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
