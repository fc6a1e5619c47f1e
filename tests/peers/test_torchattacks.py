"""The momentum family beside torchattacks (benchmarks/peers.txt): the same steps give the same images."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from steelman import vision
from steelman.attacks.bim import BIM
from steelman.attacks.mi_fgsm import MIFGSM
from steelman.attacks.ni_fgsm import NIFGSM
from steelman.threats import Linf

pytestmark = pytest.mark.peers
EPS, STEPS = 0.1, 7


@pytest.fixture(scope="module")
def torchattacks():
    """The library, or a skip that says why there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vision.load()  # beside a CPU build of torch it does not import by itself
            import torchattacks
    except ImportError as error:
        pytest.skip(f"needs torchattacks (pip install --no-deps -r benchmarks/peers.txt): {error}")
    return torchattacks


def task() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A smooth net, and images with some black and white pixels."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    x = torch.rand((16, 3, 8, 8), generator=generator)
    x[:, :, 0], x[:, :, 1] = 0, 1
    return model.eval(), x, model(x).argmax(1)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_mi_fgsm_ends_at_the_same_images(torchattacks, decay):
    model, x, y = task()
    theirs = torchattacks.MIFGSM(model, eps=EPS, alpha=EPS / STEPS, steps=STEPS, decay=decay)(x, y)
    ours = MIFGSM(steps=STEPS, decay=decay).perturb(model, x, y, Linf(EPS))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_bim_ends_at_the_same_images(torchattacks):
    model, x, y = task()
    theirs = torchattacks.BIM(model, eps=EPS, alpha=EPS / STEPS, steps=STEPS)(x, y)
    torch.testing.assert_close(BIM(steps=STEPS).perturb(model, x, y, Linf(EPS)), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scales", [1, 5])
def test_ni_fgsm_with_scales_ends_at_the_same_images(torchattacks, scales):
    model, x, y = task()
    theirs = torchattacks.SINIFGSM(model, eps=EPS, alpha=EPS / STEPS, steps=STEPS, decay=1.0, m=scales)(x, y)
    ours = NIFGSM(steps=STEPS, scales=scales).perturb(model, x, y, Linf(EPS))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
