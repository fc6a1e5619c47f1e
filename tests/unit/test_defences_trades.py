"""TRADES, MART and AWP against a step written from the papers in float64: same images, same loss, same gradient."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.defences.adversarial import Adversarial
from steelman.defences.awp import AWP
from steelman.defences.mart import MART
from steelman.defences.nfgsm import NFGSM
from steelman.defences.standard import Standard
from steelman.defences.trades import TRADES, divergence
from steelman.errors import UsageError
from steelman.spec import parse
from steelman.threats import L2, Linf, Threat

EXACT = {"rtol": 1e-5, "atol": 1e-10}
EPS, STEPS, RATE = 0.1, 3, 0.04  # in pixels


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        middle = [nn.BatchNorm2d(4)] if norm else []
        layers = nn.Conv2d(1, 4, 3, stride=2), *middle, nn.Tanh(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU()
        model = nn.Sequential(*layers, nn.Linear(5, 3)).double()
    if norm:
        with torch.no_grad():
            model[1].running_mean.normal_(generator=seeded(5))
            model[1].running_var.uniform_(0.5, 2, generator=seeded(6))
    return model


@pytest.fixture
def batch():
    """Images in float64, some of them near the pixel range's ends, with labels that the net partly gets wrong."""
    x = torch.rand(9, 1, 6, 6, generator=seeded(1), dtype=torch.float64)
    x[:, :, 0] = 0
    x[:, :, 1] = 1
    return x, torch.arange(9) % 3


def noise(x, seed=0):
    return 0.001 * torch.empty_like(x).normal_(generator=seeded(seed))


def kl(p, q):
    return (p * (p / q).log()).sum(1)


def climb(x, value):
    """Algorithm 1 of TRADES, steps 5 to 7: signed steps, cut to the ball and to the pixel range."""
    x_adv = x + noise(x)
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(value(x_adv), x_adv)
        x_adv = torch.clamp(x_adv + RATE * grad.sign(), x - EPS, x + EPS).clamp(0, 1)
    return x_adv.detach()


def by_trades(model, x, y, beta):
    model.eval()
    x_adv = climb(x, lambda z: kl(model(x).softmax(1).detach(), model(z).softmax(1)).sum())
    model.train()
    p, q = model(x).softmax(1), model(x_adv).softmax(1)
    return -p[range(9), y].log().mean() + beta * kl(p, q).mean(), x_adv


def by_mart(model, x, y, beta):
    """Equations 12 and 13 and table 1 of the paper."""
    model.eval()
    x_adv = climb(x, lambda z: -model(z).softmax(1)[range(9), y].log().sum())
    model.train()
    p, q = model(x).softmax(1), model(x_adv).softmax(1)
    others = torch.stack([q[i, [k for k in range(3) if k != y[i]]] for i in range(9)])
    boosted = -q[range(9), y].log() - (1 - others.max(1).values).log()
    return (boosted + beta * kl(p, q) * (1 - p[range(9), y])).mean(), x_adv


REFERENCES = {
    "trades": (TRADES(Linf(EPS), beta=6.0, steps=STEPS, step_size=RATE / EPS), lambda *args: by_trades(*args, 6.0)),
    "mart": (MART(Linf(EPS), beta=5.0, steps=STEPS, step_size=RATE / EPS), lambda *args: by_mart(*args, 5.0)),
}


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("name", REFERENCES)
def test_the_step_is_the_papers(name, batch):
    objective, reference = REFERENCES[name]
    x, y = batch
    model = network().train()
    expected, x_adv = reference(model, x, y)
    torch.testing.assert_close(objective.images(model, x, y, generator=seeded()), x_adv, **EXACT)
    loss = objective(model, x, y, progress=0.3, generator=seeded())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(gradients(loss, model), gradients(expected, model), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("name", REFERENCES)
def test_images_are_sought_in_eval_mode_and_learned_in_train_mode(name, batch):
    objective, reference = REFERENCES[name]
    x, y = batch
    model, twin = network(norm=True).train(), network(norm=True)
    expected, x_adv = reference(twin, x, y)
    torch.testing.assert_close(objective.images(model, x, y, generator=seeded()), x_adv, **EXACT)
    assert int(model[1].num_batches_tracked) == 0
    loss = objective(model, x, y, progress=0.0, generator=seeded())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(model[1].num_batches_tracked) == 2  # one pass of the clean images, one of the attacked
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_divergence_is_torch_s_and_at_least_nought(batch):
    first, second = torch.randn(2, 50, 7, generator=seeded())
    expected = nn.functional.kl_div(second.log_softmax(1), first.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(divergence(first, second), expected)
    assert (divergence(first, second) > 0).all()
    assert divergence(first, first).abs().max() == 0


def test_without_beta_or_radius_trades_is_cross_entropy(batch):
    x, y = batch
    model = network()
    clean = Standard()(model, x, y, progress=0.0, generator=seeded())
    for objective in (TRADES(Linf(EPS), beta=0.0), TRADES(Linf(0.0)), TRADES(L2(EPS), ramp=0.5)):
        assert objective(model, x, y, progress=0.0, generator=seeded()).item() == pytest.approx(clean.item(), abs=1e-12)


def test_l2_steps_reach_the_edge_of_the_ball(batch):
    x, y = batch
    x = 0.4 + 0.2 * x  # the pixel range is far
    for objective in (TRADES(L2(0.1), steps=4), MART(L2(0.1), steps=4)):
        x_adv = objective.images(network(), x, y, generator=seeded())
        torch.testing.assert_close((x_adv - x).flatten(1).norm(dim=1), torch.full((9,), 0.1, dtype=torch.float64))


def test_mart_is_finite_where_the_net_is_certain(batch):
    """A rival with probability 1 in float32 would give log 0."""
    x, y = batch
    model = network().float()
    with torch.no_grad():
        model[-1].weight.mul_(1e4)
    loss = MART(Linf(EPS))(model, x.float(), y, progress=0.0, generator=seeded())
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss.item() > 10
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


# ---- AWP


def by_awp(model, x_adv, x, y, gamma, value):
    """Equation 10, one step: v_l = gamma |w_l| g_l / |g_l|; the loss and its gradient at w + v, then back to w."""
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    grads = torch.autograd.grad(value(model, x, x_adv, y), weights)
    model.load_state_dict({**model.state_dict(), **statistics})
    moves = [gamma * w.detach().norm() * g / g.norm() for w, g in zip(weights, grads, strict=True)]
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight += move
    loss = value(model, x, x_adv, y)
    result = gradients(loss, model)
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight -= move
    return loss, result


def entropy(model, x, x_adv, y):
    return -model(x_adv).log_softmax(1)[range(9), y].mean()


def trades_loss(model, x, x_adv, y):
    p, q = model(x).softmax(1), model(x_adv).softmax(1)
    return -p[range(9), y].log().mean() + 6 * kl(p, q).mean()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("inner", "value"),
    [(Adversarial(PGD(steps=2), Linf(EPS)), entropy), (REFERENCES["trades"][0], trades_loss)],
)
def test_awp_is_the_papers(batch, inner, value, norm):
    x, y = batch
    model, twin = network(norm).train(), network(norm).train()
    before = [parameter.clone() for parameter in model.parameters()]
    x_adv = inner.images(twin, x, y, generator=seeded())
    expected, theirs = by_awp(twin, x_adv, x, y, 0.05, value)
    loss = AWP(inner, gamma=0.05)(model, x, y, progress=0.0, generator=seeded())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    for parameter, was, gradient in zip(model.parameters(), before, theirs, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **EXACT)
        assert torch.equal(parameter, was)  # the optimiser finds the weights unmoved
    for ours, reference in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, reference)


def test_moved_weights_are_worse_and_none_move_before_the_start(batch):
    x, y = batch
    model = network()
    inner = Adversarial(FGSM(), Linf(EPS))
    plain, moved, early = (
        objective(model, x, y, progress=0.4, generator=seeded()).item()
        for objective in (inner, AWP(inner, gamma=0.02), AWP(inner, gamma=0.02, start=0.5))
    )
    assert moved > plain
    assert early == plain
    assert AWP(inner, gamma=0.0)(model, x, y, progress=1.0, generator=seeded()).item() == pytest.approx(plain)


def test_frozen_weights_do_not_move(batch):
    x, y = batch
    model = network()
    model[0].weight.requires_grad_(False)
    objective = AWP(Adversarial(FGSM(), Linf(EPS)), gamma=0.02)
    objective(model, x, y, progress=0.0, generator=seeded()).backward()
    assert model[0].weight.grad is None
    assert model[-1].weight.grad is not None


def test_awp_passes_on_what_it_is_asked():
    inner = NFGSM(Linf(0.3), ramp=0.5)
    assert AWP(inner).ball(0.25) == inner.ball(0.25) == Linf(0.15)
    assert AWP(inner).gentler() == AWP(inner.gentler())


# ---- refusals and names


@pytest.mark.parametrize("kind", [TRADES, MART])
def test_refusals(kind):
    with pytest.raises(UsageError, match=r"beta is -1.0. Expected the weight of the divergence"):
        kind(Linf(0.1), beta=-1.0)
    with pytest.raises(UsageError, match=r"steps is 0, step_size is None. Expected one step or more"):
        kind(Linf(0.1), steps=0)
    with pytest.raises(UsageError, match=r"step_size is 0.0. Expected one step or more, and a positive fraction"):
        kind(Linf(0.1), step_size=0.0)
    with pytest.raises(UsageError, match=rf"ramp is 1.5: {kind.__name__} would never train at eps 0.1.*<= ramp <= 1"):
        kind(Linf(0.1), ramp=1.5)
    with pytest.raises(UsageError, match=r"Expected a ball such as Linf\(0.3\)"):
        kind(Threat())
    with pytest.raises(UsageError, match="takes no single step"):
        kind(Linf(0.1)).gentler()


def test_awp_refuses():
    with pytest.raises(UsageError, match=r"AWP was given Standard\(\). Expected an objective that attacks images"):
        AWP(Standard())
    with pytest.raises(UsageError, match=r"gamma is -0.1.*Expected gamma >= 0"):
        AWP(TRADES(Linf(0.1)), gamma=-0.1)
    with pytest.raises(UsageError, match=r"start is 1.5.*0 <= start <= 1"):
        AWP(TRADES(Linf(0.1)), start=1.5)


def test_names_parse():
    for objective in (
        TRADES(Linf(0.3), beta=1.0, steps=40, step_size=1 / 30),
        MART(Linf(8 / 255), ramp=0.3),
        AWP(TRADES(Linf(8 / 255)), gamma=0.005, start=0.1),
    ):
        assert parse(repr(objective), "objective") == objective
        assert dataclasses.replace(objective).paper
