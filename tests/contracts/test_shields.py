"""What every shield must do: a new one is tested by being there."""

import pytest
import torch

from steelman.attacks.pgd import PGD
from steelman.data import Data
from steelman.defences._filter import Filter
from steelman.shielded import strike_shielded
from steelman.spec import catalogue, parse
from steelman.threats import Linf
from tests.nets import net, seeded, task

SHIELDS = [cls() for cls in catalogue("shield").values()]
EVERY = pytest.mark.parametrize("shield", SHIELDS, ids=repr)


@pytest.fixture(scope="module")
def model():
    return net()


@EVERY
def test_a_shield_is_a_value_and_names_its_paper(shield):
    assert parse(repr(shield), "shield") == shield
    assert "arXiv" in shield.paper or "doi" in shield.paper


@EVERY
def test_logits_keep_their_shape_and_pixels_their_range(shield, model):
    x, _ = task(model)
    assert shield(model)(x).shape == model(x).shape
    assert shield(model)(x).isfinite().all()
    if isinstance(shield, Filter):
        seen = shield.exact(x)
        assert seen.shape == x.shape
        assert seen.dtype == x.dtype
        assert seen.min() >= 0
        assert seen.max() <= 1
        assert torch.equal(shield(model)(x), model(seen))


@EVERY
def test_two_shields_of_one_seed_agree_and_leave_the_global_generator_alone(shield, model):
    x, _ = task(model)
    before = torch.random.get_rng_state()
    first, second = shield(model), shield(model)
    for _ in range(2):
        assert torch.equal(first(x), second(x))
    assert torch.equal(torch.random.get_rng_state(), before)


@EVERY
def test_the_models_weights_are_shared_and_not_changed(shield, model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrapped = shield(model)
    assert {id(value) for value in wrapped.parameters()} == {id(value) for value in model.parameters()}
    wrapped(task(model)[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@EVERY
def test_an_attack_finds_a_gradient_and_forward_is_the_same_with_and_without_it(shield, model):
    x, _ = task(model)
    wrapped, calm = shield(model), shield(model)
    leaf = x.clone().requires_grad_()
    logits = wrapped(leaf)
    with torch.no_grad():
        assert torch.equal(calm(x), logits)
    logits[:, 0].sum().backward()
    assert leaf.grad.isfinite().all()
    assert (leaf.grad.flatten(1) != 0).any(1).all()


@EVERY
def test_an_attacker_who_knows_the_shield_is_never_weaker(shield, model):
    """The static images are among what the adaptive attack tries."""
    x, y = task(model, n=24, wrong=2)
    data = Data(x.mul(255).round().byte(), y, ("a", "b", "c", "d"))
    found = strike_shielded(model, shield, data, PGD(steps=4, loss="margin"), Linf(0.1), generator=seeded())
    held = found.adaptive.right & ~found.adaptive.broken
    assert (found.static_held | ~held).all()  # what holds against the adaptive attack holds against the static one
    assert held.sum() < found.adaptive.right.sum()
    assert Linf(0.1).contains(found.adaptive.x_adv, data.pixels()).all()
