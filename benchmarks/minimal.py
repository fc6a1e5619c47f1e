"""Minimal-norm attacks against the peers': mean optimality over three nets in each norm, MNIST.

Usage: minimal.py [images] [norms] [nets], such as `minimal.py 1000 L2,L1 trades`. The envelope is that of all attacks
named here. Peers get 150 steps, a forward and a backward pass each: 300 evaluations an image, as ours. FAB and ALMA
keep their own, 1,100 and 2,000; against ALMA there is a Bisect of as many.
"""

import math
import sys
from collections import defaultdict

from nets import images, net
from timing import verdict

from steelman.attacks import Attack
from steelman.attacks.foreign import Foreign
from steelman.evaluate import strike
from steelman.optimality import optimality
from steelman.spec import parse

OURS = {
    "Linf": ("FMN(steps=140)", "PDPGD()", "Bisect()"),
    "L2": ("DDN(steps=140)", "FMN(steps=140)", "Bisect()"),
    "L1": ("FMN(steps=140)", "EAD()", "Bisect()", "Bisect(rounds=72)"),
    "L0": ("SigmaZero(steps=140)", "FMN(steps=140)"),
}
PEERS = {
    "Linf": (
        "foolbox.LInfFMNAttack(steps=150)",
        "adv_lib.fmn(norm=inf, steps=150)",
        "adv_lib.fab(norm=inf)",
    ),
    "L2": ("foolbox.DDN(steps=150)", "adv_lib.ddn(steps=150)", "adv_lib.fmn(norm=2, steps=150)"),
    "L1": (
        "foolbox.L1FMNAttack(steps=150)",
        "adv_lib.fmn(norm=1, steps=150)",
        "adv_lib.alma(distance='l1')",
    ),
    "L0": ("adv_lib.sigma_zero(num_steps=150)", "foolbox.L0FMNAttack(steps=150)"),
}


def main() -> None:
    """Print the table of each norm and the verdict."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    norms = sys.argv[2].split(",") if len(sys.argv) > 2 else list(OURS)
    names = sys.argv[3].split(",") if len(sys.argv) > 3 else ["standard", "ddn", "trades"]
    data = images(num)
    for norm in norms:
        attacks: list[Attack] = [*(parse(text, "attack") for text in OURS[norm]), *map(Foreign, PEERS[norm])]
        scores: dict[str, list[float]] = defaultdict(list)
        for name in names:
            outcomes = [strike(net(name), data, one, parse(f"{norm}(inf)", "threat"), closest=True) for one in attacks]
            distances = [one.distance.nan_to_num(math.inf).where(one.right, 0) for one in outcomes]
            for attack, outcome, score in zip(attacks, outcomes, optimality(distances), strict=True):
                scores[repr(attack)].append(score)
                right = outcome.right
                queries = float((outcome.forwards + outcome.backwards)[right].float().mean())
                print(
                    f"{norm:5s} {name:9s} {attack!r:62s} optimality {score:.3f}, median "
                    f"{float(outcome.distance[right].nan_to_num(math.inf).median()):.4g}, broken "
                    f"{100 * float(outcome.broken[right].float().mean()):.1f} %, {queries:.0f} queries, "
                    f"{outcome.seconds:.1f} s",
                    flush=True,
                )
        means = {label: sum(values) / len(values) for label, values in scores.items()}
        ours = max((value, label) for label, value in means.items() if "Foreign" not in label)
        best = max((value, label) for label, value in means.items() if "Foreign" in label)
        scores_of = f"{ours[1]} {ours[0]:.3f} against {best[1]} {best[0]:.3f}"
        what = f"{norm}, {num} images, {', '.join(names)}: {scores_of}; ahead by"
        verdict(what, ours[0] - best[0], ">= 0", holds=ours[0] >= best[0])


if __name__ == "__main__":
    main()
