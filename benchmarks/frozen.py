"""Training behind 16 frozen blocks of MobileNetV2: their features computed once against anew in every epoch.

Usage: frozen.py [images] [rounds]. PACS at 96 pixels, 4 epochs, one process, in turn.
Gate: both sides end with the same weights to 1e-4.
"""

import copy
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from timing import interleaved, ratio, table, verdict
from torch import nn

from steelman import frozen
from steelman.data import Splits
from steelman.data.pacs import PACS
from steelman.fitting import fit
from steelman.models.mobilenet import MobileNetV2
from steelman.recipe import Recipe

WEIGHTS = "mobilenet_v2_imagenet1k.safetensors"
EPOCHS, BLOCKS = 4, 16


def main() -> None:
    """Print the times and the verdict."""
    root = Path(os.environ["STEELMAN_DATA"])
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 384
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    whole = PACS().splits(root)
    splits = Splits(whole.train.first(num), whole.val.first(num // 4), whole.test)
    network = MobileNetV2(pretrained=str(root / WEIGHTS))
    start = network(whole.train.shape, len(whole.train.classes), torch.Generator().manual_seed(0))
    recipe = Recipe(lr=1e-3, epochs=EPOCHS, batch_size=32, frozen=BLOCKS, keep="last")
    trained: dict[str, nn.Module] = {}

    def once() -> None:
        trained["once"] = _trained(start, splits, recipe)

    def anew() -> None:
        with _recomputing():
            trained["anew"] = _trained(start, splits, recipe)

    seconds = interleaved({"features in every epoch": anew, "features once": once}, rounds)
    print(f"{EPOCHS} epochs, {num} images to train and {num // 4} to choose, {BLOCKS} frozen blocks")
    table(seconds)
    apart = _apart(trained["once"], trained["anew"])
    print(f"  largest difference of a weight: {apart:.1e}")
    if apart > 1e-4:
        print("  no ratio: the two sides do not end with the same weights")
        return
    value = ratio(seconds, "features in every epoch", "features once")
    verdict("features in every epoch / once", value, ">= 3", holds=value >= 3)


def _trained(start: nn.Module, splits: Splits, recipe: Recipe) -> nn.Module:
    model = copy.deepcopy(start)
    fit(model, splits, recipe, generator=torch.Generator().manual_seed(0))
    return model


@contextmanager
def _recomputing() -> Generator[None]:
    """Inside, frozen blocks are held as ever, but nothing of them is kept."""
    kept, frozen.caches = frozen.caches, lambda recipe: False  # noqa: ARG005
    try:
        yield
    finally:
        frozen.caches = kept


def _apart(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


if __name__ == "__main__":
    main()
