"""PGD-40 on the TRADES SmallCNN, 500 MNIST images: against torchattacks, and against the bare gradient.

Gate: both sides end at the same robust accuracy within one point.
"""

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import interleaved, ratio, table, verdict

from steelman.attacks.pgd import PGD
from steelman.data.mnist import MNIST
from steelman.engine import guarded, micro_batch, precise
from steelman.evaluate import accuracy
from steelman.models.small_cnn import SmallCNN
from steelman.models.weights import load_weights
from steelman.threats import Linf

STEPS, EPS, STEP = 40, 0.3, 0.01


def main() -> None:
    """Print the times and the verdicts."""
    root = Path(os.environ["STEELMAN_DATA"])
    test = MNIST().splits(root).test.first(500)
    x, y = test.pixels(), test.labels
    model = SmallCNN()(test.shape, 10, torch.Generator().manual_seed(0))
    load_weights(model, root / "trades_smallcnn_mnist.safetensors")
    ours = PGD(steps=STEPS, step_size=STEP / EPS)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    _against_bare(model, x, y, rounds)
    _against_torchattacks(model, x, y, ours, rounds)


def _against_bare(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, rounds: int) -> None:
    batch, steps = micro_batch(model, x), 10

    def bare() -> None:
        with guarded(model):
            for part, labels in zip(x.split(batch), y.split(batch), strict=True):
                for _ in range(steps):
                    leaf = part.clone().requires_grad_()
                    torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)

    attack = PGD(steps=steps, step_size=STEP / EPS, random_start=False)

    def engine() -> None:
        with precise():  # as the bare loop
            attack.run(model, x, y, Linf(EPS))

    seconds = interleaved({"bare": bare, "engine": engine}, rounds)
    print(f"engine against bare forward and input-backward, {steps} steps, float32, micro-batches of {batch}:")
    table(seconds)
    # the engine also judges the last point: one forward pass more than the bare loop
    value = ratio(seconds, "engine", "bare")
    verdict("engine / bare", value, "<= 1.10", holds=value <= 1.10)


def _against_torchattacks(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, ours: PGD, rounds: int) -> None:
    warnings.filterwarnings("ignore")
    import torchattacks

    peer = torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=True)
    results: dict[str, torch.Tensor] = {}

    def theirs(batch: int) -> None:
        parts = zip(x.split(batch), y.split(batch), strict=True)
        results[str(batch)] = torch.cat([peer(part, labels) for part, labels in parts])

    def mine() -> None:
        results["ours"] = ours(model, x, y, Linf(EPS))

    batches = (500, 250, 100, 64, 32)
    ways = {f"torchattacks, batch {batch}": (lambda batch=batch: theirs(batch)) for batch in batches}
    seconds = interleaved({"steelman, one call": mine, **ways}, rounds)
    robust = {name: float(accuracy(model, (x_adv.float(), y)).float().mean()) for name, x_adv in results.items()}
    print(f"PGD-{STEPS}, 500 images: robust " + ", ".join(f"{name} {value:.3f}" for name, value in robust.items()))
    table(seconds)
    if abs(robust["ours"] - robust["500"]) > 0.01:
        print("  no ratio: the two sides do not agree within one point")
        return
    value = ratio(seconds, "torchattacks, batch 500", "steelman, one call")
    verdict("torchattacks at batch 500 / steelman", value, ">= 2.5", holds=value >= 2.5)
    best = min(ways, key=lambda name: min(seconds[name]))
    value = ratio(seconds, best, "steelman, one call")
    verdict(f"{best} (its best) / steelman", value, ">= 1", holds=value >= 1)


if __name__ == "__main__":
    main()
