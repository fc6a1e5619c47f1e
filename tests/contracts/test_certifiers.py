"""What every certifier must do: a new one is tested by being there."""

import pytest
import torch
from torch import nn

from steelman.attacks.pgd import PGD
from steelman.certify import Certifier
from steelman.certify.smoothing import Smoothing
from steelman.errors import UsageError
from steelman.spec import catalogue, parse
from steelman.threats import L0, L2, Linf
from tests.nets import net, seeded, task

CERTIFIERS: list[Certifier] = [
    Smoothing(n0=20, n=200) if cls is Smoothing else cls() for cls in catalogue("certifier").values()
]
EVERY = pytest.mark.parametrize("certifier", CERTIFIERS, ids=repr)
EXACT = pytest.mark.parametrize("certifier", [one for one in CERTIFIERS if not one.smooths], ids=repr)
NEAR = (L2(0.01), Linf(0.002))


def made() -> nn.Sequential:
    """The small net with an activation that every certifier knows."""
    model = net()
    model[2] = nn.ReLU()
    return model


@pytest.fixture(scope="module")
def model():
    return made()


@EVERY
def test_a_certifier_is_a_value_and_names_its_paper(certifier):
    assert parse(repr(certifier), "certifier") == certifier
    assert "arXiv" in certifier.paper


@EVERY
@pytest.mark.parametrize("threat", NEAR, ids=repr)
def test_something_is_proven_nothing_wrong_is_and_less_at_a_larger_radius(certifier, threat, model):
    x, y = task(model, wrong=4)
    proven = certifier(model, x, y, threat, generator=seeded())
    assert proven.shape == y.shape
    assert proven.dtype == torch.bool
    assert proven.any()
    if not certifier.smooths:
        assert not proven[model(x).argmax(1) != y].any()
    assert not (certifier(model, x, y, threat.at(3 * threat.eps), generator=seeded()) & ~proven).any()


@EXACT
def test_what_is_proven_is_not_broken(certifier, model):
    x, y = task(model)
    for threat in NEAR:
        proven = certifier(model, x, y, threat)
        assert not (proven & PGD(steps=20, loss="margin").run(model, x, y, threat).success).any()


@EVERY
def test_the_same_seed_proves_the_same_and_the_global_generator_is_left_alone(certifier, model):
    x, y = task(model)
    before = torch.random.get_rng_state()
    first, second = (certifier(model, x, y, L2(0.1), generator=seeded()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)


@EVERY
def test_the_callers_model_is_as_it_was(certifier):
    model = made()
    x, y = task(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    certifier(model, x, y, L2(0.1), generator=seeded())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@EVERY
def test_progress_ends_with_all_images(certifier, model):
    x, y = task(model)
    told = []
    certifier(model, x, y, L2(0.1), progress=lambda done, total, _: told.append((done, total)))
    assert told[-1] == (len(x), len(x))


@EVERY
def test_what_a_certifier_proves_nothing_about_is_said(certifier, model):
    x, y = task(model)
    with pytest.raises(UsageError, match=r"L0\(2"):
        certifier(model, x, y, L0(2.0))


@EVERY
def test_no_images_are_no_proofs(certifier, model):
    x, y = task(model)
    assert certifier(model, x[:0], y[:0], L2(0.1)).tolist() == []
