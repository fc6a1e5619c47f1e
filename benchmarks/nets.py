"""The nets that benchmarks attack: the published TRADES SmallCNN, and three trained here once and kept in out/bench."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from steelman.attacks.ddn import DDN
from steelman.data import Data
from steelman.data.mnist import MNIST
from steelman.defences.adversarial import Adversarial
from steelman.defences.fgsmrs import FGSMRS
from steelman.defences.guarded import Guarded
from steelman.models.fast_cnn import FastCNN
from steelman.models.small_cnn import SmallCNN
from steelman.models.weights import load_weights
from steelman.recipe import Recipe
from steelman.threats import L2, Linf
from steelman.train import Training, load_run, train

KEPT = Path("out/bench")
FEW = 20_000  # images
DDN_TRAINING = Adversarial(DDN(steps=10, halvings=0), L2(2.4))
PLAIN = Recipe(epochs=3, batch_size=128, schedule="one-cycle")
FROM_CORNERS = Guarded(FGSMRS(Linf(0.33), noise=1.0, step=2.0, start="corner", ramp=0.4), gap=0.25)
SINGLE_STEP = replace(PLAIN, objective=FROM_CORNERS, epochs=10, lr=3e-3, ema=0.998, keep="last")


def trainings() -> dict[str, Training]:
    """What is trained here: a standard, a DDN-trained and a guarded FGSM-RS net."""
    return {
        "standard": Training(SmallCNN(), MNIST(), PLAIN),
        "ddn": Training(SmallCNN(), MNIST(), replace(PLAIN, objective=DDN_TRAINING), num=FEW),
        "fgsm-rs": Training(FastCNN(), MNIST(), SINGLE_STEP),
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
    run = train(trainings()[name], out=KEPT / name, root=root())
    return load_run(run.path).model


if __name__ == "__main__":
    for each in ("trades", *trainings()):
        net(each)
