"""AutoAttack and Reliable against pyautoattack, the reference code, on MNIST within L-inf 0.3.

Usage: auto_attack.py [images] [nets], such as `auto_attack.py 500 trades,fgsm-rs`. Gates: robust accuracies within 0.4
point for AutoAttack, at most 0.1 point above the reference for Reliable. The reference runs once: it takes minutes.
"""

import sys
import time
import warnings

import torch
from nets import images, net
from timing import verdict
from torch import Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.reliable import Reliable
from steelman.evaluate import accuracy, strike
from steelman.threats import Linf

EPS = 0.3


def main() -> None:
    """Print accuracies, times, queries and verdicts."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    names = sys.argv[2].split(",") if len(sys.argv) > 2 else ["trades", "fgsm-rs"]
    data = images(num)
    x, y = data.pixels(), data.labels
    for name in names:
        model = net(name).eval()
        print(f"{name}, {num} images", flush=True)
        fast, fast_seconds = _ours(Reliable(), model, x, y)
        full, full_seconds = _ours(AutoAttack(), model, x, y)
        peer, peer_seconds = _reference(model, x, y)
        _compare(f"AutoAttack on {name}", full - peer, (-0.4, 0.4), peer_seconds / full_seconds, 2)
        _compare(f"Reliable on {name}", fast - peer, (-100, 0.1), peer_seconds / fast_seconds, 10)


def _ours(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    began = time.perf_counter()
    outcome = strike(model, (x, y), attack, Linf(EPS), generator=torch.Generator().manual_seed(0))
    seconds = time.perf_counter() - began
    gradients, forwards = float(outcome.backwards.float().mean()), float(outcome.forwards.float().mean())
    cost = f"{gradients:.0f} gradients, {forwards:.0f} forwards"
    print(f"  {attack!r:24s} robust {outcome.robust}, {seconds:.1f} s, {cost} an image", flush=True)
    return 100 * outcome.robust.value, seconds


def _reference(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The reference at its own batch size, 250; parameters without gradient, as its users have them."""
    warnings.filterwarnings("ignore")
    import pyautoattack

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    peer = pyautoattack.AutoAttack(model, norm="Linf", eps=EPS, version="standard", seed=0, device="cpu")
    began = time.perf_counter()
    x_adv, _ = peer.run_standard_evaluation(x, y)
    seconds = time.perf_counter() - began
    inside = (x_adv - x).abs().flatten(1).amax(1) <= EPS + 1e-6
    robust = 100 * float((accuracy(model, (x_adv.clamp(0, 1), y)) | ~inside).double().mean())
    print(f"  {'pyautoattack':24s} robust {robust:.2f} %, {seconds:.1f} s", flush=True)
    return robust, seconds


def _compare(what: str, gap: float, allowed: tuple[float, float], ratio: float, bar: float) -> None:
    if not allowed[0] - 1e-6 <= gap <= allowed[1] + 1e-6:
        print(f"  no ratio for {what}: {gap:+.2f} points from the reference, allowed {allowed[0]:g} to {allowed[1]:g}")
        return
    verdict(f"{what}, {gap:+.2f} points, pyautoattack's time / ours", ratio, f">= {bar:g}", holds=ratio >= bar)


if __name__ == "__main__":
    main()
