"""The libraries themselves through Foreign: one attack of a fixed radius and one for the nearest success of each."""

import importlib
import math
import sys
import warnings

import pytest
import torch

from steelman.attacks._peers import LIBRARIES
from steelman.attacks.foreign import Foreign
from steelman.evaluate import strike
from steelman.threats import L0, L1, L2, Linf
from tests.contracts.test_attacks import lived_in, net, seeded, snapshot, task

pytestmark = pytest.mark.peers
INF = math.inf


def needs(library):
    """Skip, with the reason, where the library cannot be used."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(library)
    except Exception as error:
        pytest.skip(f"{library} cannot be imported: {error}")


@pytest.mark.parametrize(
    ("call", "threat"),
    [
        ("torchattacks.PGD(alpha=0.02)", Linf(0.06)),
        ("torchattacks.PGDL2(alpha=0.1)", L2(0.3)),
        ("torchattacks.MIFGSM(alpha=0.02)", Linf(0.06)),
        ("torchattacks.APGD()", L2(0.3)),
        ("torchattacks.AutoAttack()", Linf(0.2)),
        ("torchattacks.Square(n_queries=200)", Linf(0.1)),
        ("torchattacks.CW(c=10, steps=100)", L2(INF)),
        ("torchattacks.DeepFool()", L2(INF)),
        ("foolbox.FGSM()", Linf(0.1)),
        ("foolbox.LinfPGD()", Linf(0.1)),
        ("foolbox.L2PGD(rel_stepsize=0.1)", L2(0.4)),
        ("foolbox.DDN()", L2(INF)),
        ("foolbox.L2CarliniWagnerAttack(steps=50, initial_const=1)", L2(INF)),
        ("foolbox.FMN()", Linf(INF)),
        ("foolbox.FMN()", L2(INF)),
        ("foolbox.FMN()", L1(INF)),
        ("foolbox.FMN()", L0(INF)),
        ("foolbox.EAD(steps=50, initial_const=1)", L1(INF)),
        ("foolbox.L2DeepFoolAttack()", L2(INF)),
        ("foolbox.HopSkipJump(steps=3, max_gradient_eval_steps=100)", L2(INF)),
        ("foolbox.BoundaryAttack(steps=20)", L2(INF)),
        ("art.PGD(max_iter=10)", Linf(0.06)),
        ("art.AutoProjectedGradientDescent(max_iter=10, nb_random_init=1)", L2(0.3)),
        ("art.SquareAttack(max_iter=100)", Linf(0.1)),
        ("art.AutoAttack()", Linf(0.2)),
        ("art.CarliniL2Method(max_iter=20, binary_search_steps=3, initial_const=1)", L2(INF)),
        ("art.ElasticNet(max_iter=20, binary_search_steps=3, initial_const=1)", L1(INF)),
        ("art.DeepFool(max_iter=20, nb_grads=4)", L2(INF)),
        ("adv_lib.apgd(n_iter=20)", Linf(0.06)),
        ("adv_lib.ddn()", L2(INF)),
        ("adv_lib.fmn(steps=50)", L1(INF)),
        ("adv_lib.alma(num_steps=100)", L2(INF)),
        ("adv_lib.pdpgd(num_steps=100)", Linf(INF)),
        ("adv_lib.carlini_wagner_l2(max_iterations=100, binary_search_steps=3, initial_const=1.0)", L2(INF)),
        ("adv_lib.sigma_zero(num_steps=50)", L0(INF)),
        ("adv_lib.vfga()", L0(INF)),
        ("pyautoattack.AutoAttack()", Linf(0.2)),  # the later members crash with fewer than ten classes
        ("pyautoattack.AutoAttack(version='rand')", L2(0.6)),
    ],
)
def test_a_peer_breaks_a_small_net_and_leaves_the_world_as_it_was(call, threat, capfd):
    needs(call.partition(".")[0])
    model, (x, y) = lived_in(), task(net(), n=8, wrong=0)
    before, generator = snapshot(model), torch.random.get_rng_state()
    outcome = strike(model, (x, y), Foreign(call), threat, closest=math.isinf(threat.eps), generator=seeded())
    assert outcome.broken.any()
    assert threat.contains(outcome.x_adv, x).all()
    assert not outcome.rejected.any()
    assert (outcome.forwards > 1).all()
    assert snapshot(model) == before
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert capfd.readouterr() == ("", "")
    assert "visdom" not in sys.modules or "visdom" in sys.builtin_module_names or sys.modules["visdom"].__file__


@pytest.mark.parametrize("steps", [5, 20])
def test_torchattacks_pgd_is_what_it_is_by_hand(steps):
    needs("torchattacks")
    import torchattacks

    model = net()
    x, y = task(model, n=60, wrong=0)
    threat = Linf(0.05)
    ours = strike(model, (x, y), Foreign(f"torchattacks.PGD(steps={steps}, random_start=False)"), threat)
    by_hand = torchattacks.PGD(model, eps=0.05, steps=steps, random_start=False)(x, y)
    with torch.no_grad():
        robust = float((model(by_hand).argmax(1) == y).float().mean())
    assert 0 < robust < 1
    assert ours.robust.value == pytest.approx(robust)
    torch.testing.assert_close(ours.x_adv, by_hand)
    assert (ours.backwards == steps).all()


@pytest.mark.parametrize("library", ["torchattacks", "foolbox", "art", "pyautoattack", "adv_lib"])
def test_every_name_in_the_table_is_there(library):
    needs(library)
    home = {"foolbox": "foolbox.attacks", "art": "art.attacks.evasion"}.get(library, library)
    if library == "adv_lib":
        from steelman.attacks._peers.adv_lib import _attacks

        module = _attacks()
    else:
        module = importlib.import_module(home)
    families = {"FMNAttack", "CarliniWagnerAttack", "DeepFoolAttack"} if library == "foolbox" else set()
    names = {peer.attribute or name for name, peer in LIBRARIES[library].peers.items()} - families
    assert not [name for name in names if not hasattr(module, name)]
