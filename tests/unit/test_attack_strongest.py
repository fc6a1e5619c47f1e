"""Attacks of several searches: what `perturb` gives is the best allowed candidate, not what came last."""

import dataclasses

import pytest
import torch

from steelman.attacks import Attack
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.fab import FAB
from steelman.attacks.fmn import FMN
from steelman.attacks.multi_targeted import MultiTargeted
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.attacks.reliable import Reliable
from steelman.attacks.square import Square
from steelman.attacks.strongest import Strongest
from steelman.errors import UsageError
from steelman.losses import margin
from steelman.threats import Linf
from tests.nets import net, seeded, task

SEVERAL: list[Attack] = [
    Strongest((PGD(steps=5), Noise())),
    Strongest((PGD(steps=5), FAB(steps=3), FMN(steps=5))),
    AutoAttack(steps=5, queries=10),
    Reliable(steps=2, rounds=1, polish=3, queries=3, audit=0),
    Square(queries=40),
    PGD(steps=5, restarts=4),
    MultiTargeted(steps=3, targets=2),
    Noise(tries=20),
]


@pytest.mark.parametrize("attack", SEVERAL, ids=repr)
@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_the_best_allowed_candidate_is_given(attack, eps):
    """Right or wrong before, allowed, and no worse than the first search alone: on a smooth net PGD finds the most."""
    model = net()
    x, y = task(model, n=12, wrong=3)
    x_adv = attack.perturb(model, x, y, Linf(eps), generator=seeded())
    assert Linf(eps).contains(x_adv, x).all()
    with torch.no_grad():
        before, after = margin(model(x), y), margin(model(x_adv), y)
    assert (after >= before - 1e-5).all()
    assert (after > before).float().mean() > (0.8 if attack.needs == "gradients" else 0.3)
    if isinstance(attack, PGD):
        alone, generator = dataclasses.replace(attack, restarts=1), seeded()
        each = [alone.perturb(model, x, y, Linf(eps), generator=generator) for _ in range(4)]
        with torch.no_grad():
            leads = torch.stack([margin(model(one), y) for one in each])
        assert (after >= leads.amax(0) - 1e-5).all()
        assert (leads.argmax(0) != 3).any()  # not that of the last restart
    if isinstance(attack, Strongest):
        first = PGD(steps=5).perturb(model, x, y, Linf(eps), generator=seeded())
        with torch.no_grad():
            assert (after >= margin(model(first), y) - 1e-5).all()


def test_what_proves_and_audits_is_no_member():
    with pytest.raises(
        UsageError, match=r"^Reliable\(\) proves and audits what it leaves, which it can only do on its"
    ):
        Strongest((PGD(), Reliable()))
