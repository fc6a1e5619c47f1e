"""Training throughput: BasicCNN on MNIST, an epoch of steelman's loop against a torchvision DataLoader with ToTensor.

Gate: both end at the same validation accuracy within one point.
"""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import interleaved, ratio, table, verdict

from steelman.data.mnist import MNIST
from steelman.evaluate import accuracy
from steelman.fitting import fit
from steelman.models.basic_cnn import BasicCNN
from steelman.recipe import Recipe
from steelman.vision import load

BATCH = 64


def main() -> None:
    """Print the times and the verdict."""
    root = Path(os.environ["STEELMAN_DATA"])
    splits = MNIST().splits(root)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    torchvision = load()
    theirs = torchvision.datasets.MNIST(root, train=True, transform=torchvision.transforms.ToTensor())
    subset = torch.utils.data.Subset(theirs, range(len(splits.train)))
    trained: dict[str, torch.nn.Module] = {}

    def steelman(precision: str) -> None:
        trained[precision] = model = _fresh(splits.train.shape)
        recipe = Recipe(epochs=1, batch_size=BATCH, precision=precision)
        fit(model, splits, recipe, generator=torch.Generator().manual_seed(0))

    def loader() -> None:
        trained["loader"] = model = _fresh(splits.train.shape).train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        order = torch.Generator().manual_seed(0)
        for x, y in torch.utils.data.DataLoader(subset, BATCH, shuffle=True, generator=order):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    ways = {precision: (lambda precision=precision: steelman(precision)) for precision in ("float32", "bfloat16")}
    seconds = interleaved({"loader": loader, **ways}, rounds)
    right = {name: float(accuracy(model.eval(), splits.val).float().mean()) for name, model in trained.items()}
    print(f"one epoch of {len(splits.train)} images, BasicCNN, batch {BATCH}; val accuracy {right}")
    table(seconds)
    for precision in ways:
        if abs(right[precision] - right["loader"]) > 0.01:
            print(f"  no ratio for {precision}: the two sides do not agree within one point")
            continue
        value = ratio(seconds, "loader", precision)
        verdict(f"DataLoader with ToTensor / steelman, {precision}", value, ">= 5", holds=value >= 5)


def _fresh(shape: tuple[int, int, int]) -> torch.nn.Module:
    return BasicCNN()(shape, 10, torch.Generator().manual_seed(0))


if __name__ == "__main__":
    main()
