"""Carlini-Wagner L2 against torchattacks, foolbox and ART: time at an equal or better median norm, MNIST, TRADES net.

Usage: carlini.py [images]. A failure counts as an infinite norm. Each side runs once.
"""

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
        model = net(name)
        rows = {}
        for attack in (CarliniWagner(), *map(Foreign, PEERS)):
            outcome = strike(model, data, attack, L2(float("inf")), closest=True)
            norms = outcome.distance[outcome.right].nan_to_num(float("inf"))
            share = 100 * float(outcome.broken[outcome.right].float().mean())
            rows[repr(attack)] = float(norms.median()), outcome.seconds
            print(
                f"{name} {attack!r:75s} median {float(norms.median()):.3f} success {share:.1f} % {outcome.seconds:.1f} s",
                flush=True,
            )
        median, seconds = rows[repr(CarliniWagner())]
        equal = {label: time for label, (norm, time) in rows.items() if norm <= 1.001 * median and "Foreign" in label}
        if any(norm < 0.999 * median for label, (norm, _) in rows.items() if "Foreign" in label):
            print(f"  no ratio for {name}: a peer's median is lower")
            continue
        fastest = min(time for label, (_, time) in rows.items() if "Foreign" in label)
        verdict(
            f"{name}: fastest peer's time / ours, at our median or better {len(equal)}",
            fastest / seconds,
            ">= 5",
            holds=fastest / seconds >= 5,
        )


if __name__ == "__main__":
    main()
