"""Carlini-Wagner L2 against torchattacks, foolbox and ART: time at an equal or better median norm, MNIST.

Usage: carlini.py [images] [nets]. A failure counts as an infinite norm. Each side runs once: the peers take minutes.
"""

import math
import sys

from nets import images, net
from timing import verdict

from steelman.attacks.carlini_wagner import CarliniWagner
from steelman.attacks.foreign import Foreign
from steelman.evaluate import strike
from steelman.threats import L2

PEERS = (
    "torchattacks.CW(c=10, steps=1000)",
    "foolbox.L2CarliniWagnerAttack(binary_search_steps=9, steps=1000)",
    "art.CarliniL2Method(binary_search_steps=10, max_iter=10)",
)


def main() -> None:
    """Print norms, times and verdicts."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    names = sys.argv[2].split(",") if len(sys.argv) > 2 else ["standard", "trades"]
    data = images(num)
    for name in names:
        rows: list[tuple[float, float]] = []
        for attack in (CarliniWagner(), *map(Foreign, PEERS)):
            outcome = strike(net(name), data, attack, L2(math.inf), closest=True)
            median = float(outcome.distance[outcome.right].nan_to_num(math.inf).median())
            broken = 100 * float(outcome.broken[outcome.right].float().mean())
            rows.append((median, outcome.seconds))
            print(
                f"{name} {attack!r:76s} median {median:.3f}, broken {broken:.1f} %, {outcome.seconds:.1f} s", flush=True
            )
        (median, seconds), peers = rows[0], rows[1:]
        if any(theirs < 0.999 * median for theirs, _ in peers):
            print(f"  no ratio for {name}: a peer's median is lower")
            continue
        fastest = min(time for _, time in peers)
        value = fastest / seconds
        verdict(f"{name}, {num} images: fastest peer's time / ours", value, ">= 5", holds=value >= 5)


if __name__ == "__main__":
    main()
