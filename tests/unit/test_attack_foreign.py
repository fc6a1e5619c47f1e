"""Foreign attacks, with stand-ins for the libraries: what a peer gets, what it may not disturb, and who judges."""

import logging
import math
import random
import sys
import warnings
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelman.attacks import Problem
from steelman.attacks._peers import LIBRARIES, quarantine
from steelman.attacks.foreign import Foreign
from steelman.errors import SpecError, SteelmanError, UsageError
from steelman.evaluate import strike
from steelman.spec import parse
from steelman.threats import L0, L1, L2, Linf
from tests.contracts.test_attacks import lived_in, net, seeded, snapshot, task

BALLS = {"Linf": Linf, "L2": L2, "L1": L1, "L0": L0}


class Peer:
    """Stands for any attack of torchattacks: does `what` and notes what it got."""

    def __init__(self, model, eps=0.25, alpha=0.1, norm="Linf", seed=0, n_classes=10, verbose=True):
        self.model, self.eps = model, eps
        Peer.got = {"eps": eps, "alpha": alpha, "norm": norm, "seed": seed, "n_classes": n_classes}

    def set_mode_targeted_by_label(self, quiet=False):
        Peer.got["targeted"] = True

    def __call__(self, x, y):
        Peer.calls.append((x.clone(), y.clone()))
        return Peer.what(self, x, y)

    @staticmethod
    def what(self, x, y):
        x = x.clone().requires_grad_()
        nn.functional.cross_entropy(self.model(x), y).backward()
        return (x + self.eps * x.grad.sign()).clamp(0, 1).detach()


@pytest.fixture
def peer(monkeypatch):
    """torchattacks with our stand-in under the names of several attacks."""
    names = ("FGSM", "PGD", "PGDL2", "APGD", "CW", "EADL1", "DeepFool")
    module = ModuleType("torchattacks")
    for name in names:
        setattr(module, name, Peer)
    monkeypatch.setitem(sys.modules, "torchattacks", module)
    monkeypatch.setattr(Peer, "calls", [], raising=False)
    monkeypatch.setattr(Peer, "got", {}, raising=False)
    return Peer


def does(monkeypatch, what):
    monkeypatch.setattr(Peer, "what", staticmethod(what))


# ---- names


@pytest.mark.parametrize(
    "call",
    [
        "torchattacks.PGD(eps=0.3, steps=40)",
        "foolbox.L2CarliniWagnerAttack(steps=10)",
        "adv_lib.fmn",
        "art.PGD(norm=2)",
    ],
)
def test_the_name_is_the_value(call):
    attack = Foreign(call)
    assert repr(attack) == f"Foreign({call!r})"
    assert parse(repr(attack), "attack") == attack
    assert repr(Foreign(call, batch=7)) == f"Foreign({call!r}, batch=7)"
    assert attack.cost() == f"what {call.partition('(')[0]} spends, 1 forward"


def test_arguments_are_literals_as_in_any_spec(peer):
    model = net()
    Foreign("torchattacks.PGD(eps=8/255, alpha=-inf, norm=('a', 1), verbose=False)").run(
        model, *task(model, n=2), Linf(0.1)
    )
    assert (peer.got["eps"], peer.got["alpha"], peer.got["norm"]) == (8 / 255, -math.inf, ("a", 1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("PGD(steps=3)", r"names no attack\. Expected library\.Name\(keyword=value"),
        ("torchattacks.PGD(", "names no attack"),
        ("torchattacks.PGD(0.3)", "names no attack"),
        ("torchattacks.attacks.PGD()", "names no attack"),
        ("1 + 1", "names no attack"),
        (
            "os.system(command='ls')",
            r"unknown library 'os'\. Possible: adv_lib, art, foolbox, pyautoattack, torchattacks",
        ),
        ("torchattacks.PDG()", r"unknown attack of torchattacks 'PDG'\. Did you mean PGD\?"),
        ("torchattacks.PGD(**{})", r"expected keyword=value, not \*\*"),
    ],
)
def test_a_call_that_is_none_is_refused(call, words):
    with pytest.raises(UsageError, match=words):
        Foreign(call)


@pytest.mark.parametrize("value", ["open('x')", "__import__('os')", "[].append", "1 + 1", "{}"])
def test_arguments_are_never_evaluated(value):
    with pytest.raises(SpecError, match=r"torchattacks\.PGD\.eps is "):
        Foreign(f"torchattacks.PGD(eps={value})")


def test_a_batch_without_images_is_refused():
    with pytest.raises(UsageError, match=r"batch=0\): expected a batch of at least one image"):
        Foreign("torchattacks.PGD()", batch=0)


# ---- norms


@pytest.mark.parametrize(
    ("call", "norms"),
    [
        ("torchattacks.PGD(eps=0.3)", "Linf"),
        ("torchattacks.PGDL2()", "L2"),
        ("torchattacks.APGD()", "Linf L2"),
        ("torchattacks.APGD(norm='L2')", "L2"),
        ("foolbox.PGD()", "Linf"),
        ("foolbox.L1PGD()", "L1"),
        ("foolbox.FMN()", "Linf L2 L1 L0"),
        ("foolbox.LInfFMNAttack()", "Linf"),
        ("foolbox.HopSkipJumpAttack(constraint='linf')", "Linf"),
        ("art.PGD(norm=2)", "L2"),
        ("art.ProjectedGradientDescent(norm=inf)", "Linf"),
        ("adv_lib.fmn(norm=0)", "L0"),
        ("adv_lib.alma(distance='l1')", "L1"),
        ("adv_lib.pdpgd(norm=1.0)", "L1"),
        ("pyautoattack.AutoAttack(norm='L1')", "L1"),
    ],
)
def test_an_attack_of_another_norm_is_refused(call, norms):
    for norm, ball in BALLS.items():
        if norm in norms.split():
            Foreign(call).check_norm(ball(1.0))
        else:
            with pytest.raises(
                UsageError, match=rf"searches in {', '.join(norms.split())}, the threat is {norm}\(1.0\)"
            ):
                Foreign(call).check_norm(ball(1.0))


def test_it_is_refused_before_the_library_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    model = net()
    with pytest.raises(UsageError, match=r"torchattacks\.PGDL2 searches in L2, the threat is Linf"):
        strike(model, task(model), Foreign("torchattacks.PGDL2(eps=0.03)"), Linf(8 / 255))


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_a_library_that_is_not_installed_is_named_with_its_package(library, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, library, None)
    name, known = next(iter(LIBRARIES[library].peers.items()))
    model = net()
    with pytest.raises(UsageError, match=rf"cannot be imported .*pip install {LIBRARIES[library].package}"):
        Foreign(f"{library}.{name}()").run(model, *task(model), BALLS[known.norms[0]](1.0))


# ---- what a peer gets


def test_radius_norm_classes_and_seed_are_passed_unless_given(peer):
    model = net(classes=5)
    x, y = task(model)
    Foreign("torchattacks.APGD(alpha=0.5)").run(model, x, y, L2(0.7))
    assert {name: peer.got[name] for name in ("eps", "alpha", "norm", "n_classes")} == {
        "eps": 0.7,
        "alpha": 0.5,
        "norm": "L2",
        "n_classes": 5,
    }
    first = peer.got["seed"]
    Foreign("torchattacks.APGD(seed=3, eps=0.2)").run(model, x, y, L2(0.7), generator=seeded(1))
    assert (peer.got["seed"], peer.got["eps"]) == (3, 0.2)
    Foreign("torchattacks.APGD()").run(model, x, y, L2(0.7), generator=seeded(1))
    assert peer.got["seed"] != first  # drawn from the generator


def test_without_a_limit_the_radius_is_that_of_the_pixel_range(peer):
    model = net()
    Foreign("torchattacks.PGDL2()").run(model, *task(model), L2(math.inf))
    assert peer.got["eps"] == 6.0  # 1x6x6


def test_an_attack_without_a_radius_gets_none(peer):
    model = net()
    Foreign("torchattacks.CW()").run(model, *task(model), L2(0.5))
    assert peer.got["eps"] == 0.5  # our stand-in takes eps, as torchattacks.CW does not: it is offered where known
    with pytest.raises(UsageError, match=r"unknown field of CW 'step'. Possible: .*alpha"):
        Foreign("torchattacks.CW(step=3)").run(model, *task(model), L2(0.5))


def test_the_unfinished_images_come_in_batches(peer):
    model = net()
    x, y = task(model, n=12, wrong=0)
    Foreign("torchattacks.FGSM()", batch=5).run(model, x, y, Linf(0.001))
    assert [len(images) for images, _ in peer.calls] == [5, 5, 2]
    assert torch.equal(torch.cat([images for images, _ in peer.calls]), x)
    peer.calls.clear()
    both = parse("Strongest((FGSM(), Foreign('torchattacks.FGSM()')))", "attack")
    found = both.run(model, x, y, Linf(0.03))
    first = parse("FGSM()", "attack").run(model, x, y, Linf(0.03)).success
    assert first.any()
    assert torch.equal(peer.calls[0][0], x[~first])
    assert (found.success | ~first).all()


def test_a_peer_sees_float32_logits_of_a_model_it_cannot_disturb(peer, monkeypatch):
    seen = []

    def what(self, x, y):
        self.model.train()
        self.model.zero_grad()
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        seen.append((self.model(x.double()), self.model(x), next(self.model.parameters()).device))
        return x

    does(monkeypatch, what)
    model = lived_in()
    before = snapshot(model)
    x, y = task(net(), wrong=0)
    Foreign("torchattacks.FGSM()").run(model, x, y, Linf(0.1))
    assert snapshot(model) == before
    double, single, device = seen[0]
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(single.detach(), model(x))
    assert double.dtype == single.dtype == torch.float32
    assert torch.equal(double, single)  # dropout and batch statistics stay out, whatever mode the peer asks for
    assert device == x.device


def test_outputs_in_half_precision_reach_a_peer_in_float32(peer, monkeypatch):
    types = []

    def what(self, x, y):
        types.append(self.model(x).dtype)
        return x

    does(monkeypatch, what)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).bfloat16()

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x.bfloat16())

    x = torch.rand((3, 1, 6, 6), generator=seeded())
    Foreign("torchattacks.FGSM()").run(Half(), x, torch.zeros(3, dtype=torch.int64), Linf(0.1))
    assert types == [torch.float32]


def test_targets_are_passed_or_refused(peer):
    model = net()
    x, y = task(model, wrong=0)
    Foreign("torchattacks.FGSM()").run(model, x, y, Linf(0.1), target=(y + 1) % 4)
    assert peer.got["targeted"]
    assert torch.equal(peer.calls[0][1], (y + 1) % 4)
    with pytest.raises(UsageError, match=r"torchattacks\.DeepFool takes no targets\. Choose another attack"):
        Foreign("torchattacks.DeepFool()").run(model, x, y, L2(0.1), target=(y + 1) % 4)


# ---- who judges


def test_what_a_peer_returns_is_judged_and_what_is_outside_is_no_success(peer, monkeypatch):
    model = net()
    x, y = task(model, wrong=0)
    far = Foreign("torchattacks.FGSM(eps=0.4)").run(model, x, y, Linf(0.1))
    assert not far.success.any()
    assert (far.rejected == 1).all()
    assert torch.equal(far.x_adv, x)
    near = Foreign("torchattacks.FGSM()").run(model, x, y, Linf(0.1))
    assert near.success.any()
    assert not near.rejected.any()
    with torch.no_grad():
        assert torch.equal(near.success, model(near.x_adv).argmax(1) != y)


@pytest.mark.parametrize("value", [0.0, math.nan, 2.0])
def test_an_image_all_black_or_no_image_at_all_is_no_success(peer, monkeypatch, value):
    does(monkeypatch, lambda self, x, y: torch.full_like(x, value))
    model = net()
    x, y = task(model, wrong=0)
    outcome = strike(model, (x, y), Foreign("torchattacks.CW()"), L2(1.0))
    assert not outcome.broken.any()
    assert outcome.distance.isnan().all()
    assert outcome.rejected.sum() == len(x)


def test_forwards_and_backwards_are_counted_to_the_row(peer, monkeypatch):
    def what(self, x, y):
        x = x.clone().requires_grad_()
        logits = self.model(x)
        for column in range(3):
            torch.autograd.grad(logits[:, column].sum(), x, retain_graph=True)
        with torch.no_grad():
            self.model(x[:4])
        return x.detach()

    does(monkeypatch, what)
    model = net()
    x, y = task(model, wrong=0)
    found = Foreign("torchattacks.FGSM()").run(model, x, y, Linf(1e-4))
    assert int(found.forwards.sum()) == 12 + 4 + 12  # the peer's two looks, and the one that judges
    assert found.forwards.tolist() == [3] * 4 + [2] * 8
    assert found.backwards.tolist() == [3] * 12


def test_without_judgement_too_what_is_not_allowed_is_not_taken(peer, monkeypatch):
    """For training and in a transfer matrix: the original stays where the peer went beyond the threat."""
    model = net()
    x, y = task(model, wrong=6)
    foreign = Foreign("torchattacks.FGSM()")
    assert ((foreign.perturb(model, x, y, Linf(0.1)) - x).abs().amax((1, 2, 3)) > 0.09).all()
    does(monkeypatch, lambda self, x, y: (x + 0.4).clamp(0, 1))
    assert torch.equal(foreign.perturb(model, x, y, Linf(0.1)), x)


def test_where_nothing_is_left_no_peer_is_asked(peer):
    model = net()
    x, y = task(model, wrong=12)
    search = Problem(model, x, y, Linf(0.1), generator=seeded(), batch=12)
    search.show(x)
    assert search.done
    Foreign("torchattacks.FGSM()").search(search)
    assert not peer.calls


def test_a_radius_of_zero_asks_no_peer(peer):
    model = net()
    x, y = task(model, wrong=0)
    found = Foreign("torchattacks.FGSM()").run(model, x, y, Linf(0.0))
    assert not peer.calls
    assert not found.success.any()
    assert torch.equal(found.x_adv, x)


# ---- quarantine


def test_a_peer_neither_prints_nor_warns_nor_moves_the_global_generators(peer, monkeypatch, capfd):
    drawn = []

    def what(self, x, y):
        sys.stdout.write("attacking")
        sys.stderr.write("still attacking")
        warnings.warn("deprecated", stacklevel=1)
        warnings.simplefilter("always")
        logging.getLogger("peer").error("attacking")
        torch.manual_seed(5)
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
        return x

    does(monkeypatch, what)
    model = net()
    x, y = task(model)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    filters, level = list(warnings.filters), logging.root.manager.disable
    Foreign("torchattacks.FGSM()").run(model, x, y, Linf(0.1))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert (list(warnings.filters), logging.root.manager.disable) == (filters, level)
    assert capfd.readouterr() == ("", "")
    Foreign("torchattacks.FGSM()").run(model, x, y, Linf(0.1))
    Foreign("torchattacks.FGSM()").run(model, x, y, Linf(0.1), generator=seeded(1))
    assert drawn[0] == drawn[1]
    assert drawn[0][1:] != drawn[2][1:]


def test_python_s_own_generator_is_put_back_too():
    """Apart from the test above, as the checks of types in tests draw from it themselves."""
    before = random.getstate()
    with quarantine(3):
        first = random.random()
    assert random.getstate() == before
    with quarantine(3):
        assert random.random() == first
    with pytest.raises(ZeroDivisionError), quarantine(3):
        random.random() / 0
    assert random.getstate() == before


def test_a_peer_works_where_the_caller_wants_no_gradients(peer):
    model = net()
    x, y = task(model)
    expected = Foreign("torchattacks.FGSM()").run(model, x, y, Linf(0.1)).x_adv
    with torch.no_grad():
        assert torch.equal(Foreign("torchattacks.FGSM()").run(model, x, y, Linf(0.1)).x_adv, expected)


def test_a_peer_that_fails_is_named(peer, monkeypatch):
    def what(self, x, y):
        return torch.zeros(3)[4]

    does(monkeypatch, what)
    model = net()
    with pytest.raises(SteelmanError, match=r"torchattacks\.FGSM failed with IndexError: .*Change its arguments"):
        Foreign("torchattacks.FGSM()").run(model, *task(model), Linf(0.1))


def test_a_module_that_a_peer_lacks_is_named(peer, monkeypatch):
    def what(self, x, y):
        import no_such_module_for_peers  # noqa: F401

    does(monkeypatch, what)
    model = net()
    with pytest.raises(UsageError, match=r"torchattacks\.FGSM needs more than is installed \(No module named 'no_such"):
        Foreign("torchattacks.FGSM()").run(model, *task(model), Linf(0.1))


def test_what_is_no_image_for_each_image_is_refused(peer, monkeypatch):
    does(monkeypatch, lambda self, x, y: x[:1])
    model = net()
    with pytest.raises(SteelmanError, match=r"FGSM returned shape \(1, 1, 6, 6\) for images of shape \(12, 1, 6, 6\)"):
        Foreign("torchattacks.FGSM()").run(model, *task(model), Linf(0.1))


def test_an_error_of_the_model_stays_what_it_is(peer):
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise RuntimeError("the model broke")
            return x.flatten(1)[:, :4]

    x, y = task(net())
    with pytest.raises(RuntimeError, match=r"^the model broke$"):
        Foreign("torchattacks.FGSM()").run(Broken(), x, y, Linf(0.1))


# ---- the other adapters


def modules(monkeypatch, **named):
    for name, content in named.items():
        module = ModuleType(name.replace("__", "."))
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def step(model, x, y, eps):
    x = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(x), y).backward()
    return (x + eps * x.grad.sign()).clamp(0, 1).detach()


@pytest.mark.parametrize(
    ("call", "eps"), [("foolbox.PGD(steps=3)", 0.1), ("foolbox.PGD(steps=3, eps=0.05)", 0.05), ("foolbox.FMN()", None)]
)
def test_foolbox_gets_bounds_criterion_and_radius(monkeypatch, call, eps):
    got = {}

    class Attack:
        def __init__(self, *, steps=10):
            got["steps"] = steps

        def run(self, model, x, criterion, epsilon=None):
            got.update(epsilon=epsilon, labels=criterion[1], kind=criterion[0], bounds=model.bounds)
            return step(model.model, x, criterion[1], epsilon or 0.1)

    criteria = SimpleNamespace(
        Misclassification=lambda y: ("wrong", y), TargetedMisclassification=lambda y: ("target", y)
    )
    wrapped = lambda model, bounds, device: SimpleNamespace(model=model, bounds=bounds)  # noqa: E731
    attacks = SimpleNamespace(PGD=Attack, LInfFMNAttack=Attack)
    modules(monkeypatch, foolbox={"attacks": attacks, "criteria": criteria, "PyTorchModel": wrapped})
    model = net()
    x, y = task(model, wrong=0)
    assert Foreign(call).run(model, x, y, Linf(0.1)).success.any()
    assert (got["epsilon"], got["kind"], got["bounds"]) == (eps, "wrong", (0, 1))
    Foreign(call).run(model, x, y, Linf(0.1), target=(y + 1) % 4)
    assert got["kind"] == "target"
    assert torch.equal(got["labels"], (y + 1) % 4)


def test_art_gets_a_classifier_one_hot_labels_and_a_step_that_fits(monkeypatch):
    got = {}

    class Attack:
        def __init__(self, estimator, norm=math.inf, eps=0.3, eps_step=0.1, targeted=False, batch_size=1, verbose=True):
            got.update(estimator=estimator, norm=norm, eps=eps, eps_step=eps_step, targeted=targeted, quiet=not verbose)

        def generate(self, x, y):
            assert isinstance(x, np.ndarray)
            got["y"] = y
            return x + np.float32(got["eps"]) * 0.01

    modules(
        monkeypatch,
        art={},
        art__attacks={},
        art__attacks__evasion={"ProjectedGradientDescent": Attack},
        art__estimators={},
        art__estimators__classification={"PyTorchClassifier": lambda **options: options},
    )
    model = net()
    x, y = task(model, wrong=0)
    Foreign("art.PGD()").run(model, x.clamp(0, 0.9), y, L2(0.06))
    assert (got["norm"], got["eps"], got["targeted"], got["quiet"]) == (2, 0.06, False, True)
    assert got["eps_step"] == pytest.approx(0.02)
    assert np.array_equal(got["y"], np.eye(4)[y.numpy()])
    assert got["estimator"]["clip_values"] == (0.0, 1.0)
    assert (got["estimator"]["nb_classes"], got["estimator"]["input_shape"]) == (4, (1, 6, 6))
    Foreign("art.PGD(eps_step=0.5)").run(model, x, y, Linf(0.1), target=(y + 1) % 4)
    assert (got["norm"], got["eps_step"], got["targeted"]) == (math.inf, 0.5, True)
    assert np.array_equal(got["y"].argmax(1), ((y + 1) % 4).numpy())


def test_adv_lib_is_imported_without_visdom_and_gets_norm_and_radius(monkeypatch):
    got = {}

    def fmn(model, inputs, labels, norm, targeted=False, steps=10):
        got.update(norm=norm, targeted=targeted, steps=steps)
        return step(model, inputs, labels, 0.1)

    def pgd_linf(model, inputs, labels, ε, targeted=False):
        got.update(eps=ε)
        return step(model, inputs, labels, ε)

    modules(monkeypatch, adv_lib={}, adv_lib__attacks={"fmn": fmn, "pgd_linf": pgd_linf}, steelman__vision={})
    before = "visdom" in sys.modules
    model = net()
    x, y = task(model, wrong=0)
    assert Foreign("adv_lib.fmn(steps=3)").run(model, x, y, Linf(math.inf), closest=True).success.any()
    assert got == {"norm": math.inf, "targeted": False, "steps": 3}
    Foreign("adv_lib.pgd_linf()").run(model, x, y, Linf(0.2))
    assert got["eps"] == 0.2
    assert ("visdom" in sys.modules) is before


def test_pyautoattack_gets_radius_norm_and_seed(monkeypatch):
    got = {}

    class AutoAttack:
        def __init__(self, model, *, eps=0.3, norm="Linf", seed=None, device="cpu", version="standard"):
            got.update(model=model, eps=eps, norm=norm, seed=seed, version=version)

        def run_standard_evaluation(self, x, y, /, *, batch_size=250):
            return step(got["model"], x, y, got["eps"]), y

    modules(monkeypatch, pyautoattack={"AutoAttack": AutoAttack})
    model = net()
    x, y = task(model, wrong=0)
    assert Foreign("pyautoattack.AutoAttack(version='rand')").run(model, x, y, Linf(0.1)).success.any()
    assert (got["eps"], got["norm"], got["version"]) == (0.1, "Linf", "rand")
    assert got["seed"] is not None


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_the_table_of_peers_is_sound(library):
    for name, known in LIBRARIES[library].peers.items():
        assert known.norms
        assert set(known.norms) <= set(BALLS)
        assert repr(Foreign(f"{library}.{name}()")) == f"Foreign('{library}.{name}()')"
