"""The nets that benchmarks attack: the published TRADES SmallCNN, and three trained here once and kept in out/bench."""

import os
from pathlib import Path

import torch
from torch import nn

from steelman.attacks.ddn import DDN
from steelman.attacks.fgsm import FGSM
from steelman.data import Data
from steelman.data.mnist import MNIST
from steelman.defences import Objective
from steelman.defences.adversarial import Adversarial
from steelman.defences.standard import Standard
from steelman.models import Architecture
from steelman.models.fast_cnn import FastCNN
from steelman.models.small_cnn import SmallCNN
from steelman.models.weights import load_weights
from steelman.recipe import Recipe
from steelman.threats import L2, Linf
from steelman.train import Training, load_run, train

KEPT = Path("out/bench")
TRAININGS: dict[str, tuple[Architecture, Objective, int, int | None]] = {
    # architecture, objective, epochs, images
    "standard": (SmallCNN(), Standard(), 3, None),
    "ddn": (SmallCNN(), Adversarial(DDN(steps=10, halvings=0), L2(2.4)), 3, 20_000),
    "fgsm-rs": (FastCNN(), Adversarial(FGSM(random_start=True, step_size=1.25), Linf(0.3)), 10, None),
}


def images(num: int) -> Data:
    """The first test images of MNIST."""
    return MNIST().splits(root()).test.first(num)


def root() -> Path:
    """The folder with MNIST/raw and the TRADES weights."""
    return Path(os.environ["STEELMAN_DATA"])


def net(name: str) -> nn.Module:
    """A net by name: trades, standard, ddn or fgsm-rs; trained on first use."""
    if name == "trades":
        model = SmallCNN()((1, 28, 28), 10, torch.Generator().manual_seed(0))
        load_weights(model, root() / "trades_smallcnn_mnist.safetensors")
        return model
    architecture, objective, epochs, num = TRAININGS[name]
    recipe = Recipe(
        objective, lr=5e-3 if name == "fgsm-rs" else 1e-3, epochs=epochs, batch_size=128, schedule="one-cycle"
    )
    run = train(Training(architecture, MNIST(), recipe, num=num), out=KEPT / name, root=root())
    return load_run(run.path).model


if __name__ == "__main__":
    for each in ("trades", *TRAININGS):
        net(each)
