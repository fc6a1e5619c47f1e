"""The guard against catastrophic overfitting: what it calls a collapse, where it goes back to, that it resumes."""

import dataclasses

import pytest
import torch
from torch import nn

from steelman import fitting
from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.attacks.sigma_zero import SigmaZero
from steelman.data import Data, Splits
from steelman.defences import guarded
from steelman.defences.adversarial import Adversarial
from steelman.defences.awp import AWP
from steelman.defences.fgsmrs import FGSMRS
from steelman.defences.guarded import Guarded, Look
from steelman.defences.nfgsm import NFGSM
from steelman.defences.standard import Standard
from steelman.defences.trades import TRADES
from steelman.errors import Interrupted, UsageError
from steelman.fitting import fit
from steelman.recipe import Recipe
from steelman.runs import Run
from steelman.spec import parse
from steelman.threats import L0, L1, Linf

STEP = Adversarial(FGSM(random_start=True, step_size=1.0), Linf(0.1))
GUARD = Guarded(STEP, PGD(steps=2), num=12, checks=2)
RECIPE = Recipe(GUARD, epochs=3, batch_size=8, lr=0.02, ema=0.8, schedule="one-cycle", keep="last")
BATCHES = 4


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(18, 3)
        )


def splits():
    images = torch.randint(256, (30, 1, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    part = Data(images, images[:, 0, 0, 0].long() % 3, ("a", "b", "c"))
    return Splits(part, part, part)


@pytest.fixture
def saw(monkeypatch):
    """Let the guard see what a test says: the shares at these looks, healthy ones elsewhere; the calls it got."""
    calls, script = [], {}

    def look(self, model, x, y, *, progress):
        step = round(progress * BATCHES * 3)
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        calls.append((step, self, weights.clone(), len(x)))
        return script.get(step, Look(0.8, 0.75))

    monkeypatch.setattr(guarded.Guarded, "look", look)
    return calls, script


def work(path=None, recipe=RECIPE, stop_at=None):
    words = []

    def progress(done, total, said):
        words.append(said)
        if done == stop_at:
            raise KeyboardInterrupt

    model, generator = network(), torch.Generator().manual_seed(0)
    if path is None:
        return model, fit(model, splits(), recipe, generator=generator, progress=progress), words
    with Run.open(path, "test") as run:
        return model, fit(model, splits(), recipe, generator=generator, run=run, progress=progress), words


# ---- what a collapse is


def test_collapse_is_a_gap_between_one_step_and_the_probe():
    guard = Guarded(STEP, gap=0.3)
    assert guard.collapsed(Look(0.95, 0.0))
    assert guard.collapsed(Look(0.95, 0.6))
    assert not guard.collapsed(Look(0.95, 0.7))
    assert not guard.collapsed(Look(0.1, 0.05))  # both low: nothing learned yet
    assert guard.well(Look(0.9, 0.8))
    assert not guard.well(Look(0.9, 0.7))  # between the two: neither kept nor undone
    assert guard.well(Look(0.5, 0.52))  # one step that does not start at random may find more


@pytest.mark.parametrize(("num_batches", "expected"), [(8, [2, 4, 6, 8]), (10, [3, 5, 8, 10]), (3, [1, 2, 3])])
def test_looks_are_spread_over_the_epoch_and_end_it(num_batches, expected):
    assert [step for step in range(1, num_batches + 1) if GUARD_OF_FOUR.due(step, num_batches)] == expected


GUARD_OF_FOUR = Guarded(STEP, checks=4)


class Masked(nn.Module):
    """Right on clean images and where the gradient is taken, wrong between them: what a collapsed net has learned.

    Logits of class 0 against 1, of one pixel p in units of eps from 1/2: right at |p| <= .2 and at |p| >= .9.
    """

    def forward(self, x):
        p = ((x.flatten(1)[:, 0] - 0.5) / 0.1).abs()
        lead = torch.where(p < 0.55, 0.2 - p, p - 0.9) * 10 + 1e-3
        return torch.stack((lead, torch.zeros_like(lead)), 1)


def test_a_net_that_is_right_at_the_edge_only_is_seen():
    x, y = torch.full((20, 1, 1, 1), 0.5), torch.zeros(20, dtype=torch.long)
    x[10:] -= 0.001
    guard = Guarded(Adversarial(FGSM(), Linf(0.1)), PGD(steps=10, random_start=False))
    look = guard.look(Masked(), x, y, progress=1.0)
    assert look.one_step == 1.0
    assert look.robust < 0.6
    assert guard.collapsed(look)


def test_a_look_uses_the_ball_of_the_moment_and_draws_from_nobody():
    guard = Guarded(dataclasses.replace(STEP, ramp=0.5), PGD(steps=3))
    x, y = splits().val.pixels(slice(0, 12)), splits().val.labels[:12]
    model = network()
    before = torch.get_rng_state()
    first, again = (guard.look(model, x, y, progress=0.3) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), before)
    assert guard.ball(0.25) == Linf(0.05)
    clean = float((model.eval()(x).argmax(1) == y).float().mean())
    start = guard.look(model, x, y, progress=0.0)
    assert start.one_step == start.robust == pytest.approx(clean)


# ---- what training does


def test_after_a_collapse_training_goes_back_and_on_with_a_shorter_step(saw):
    calls, script = saw
    script[8] = Look(0.9, 0.1)
    _, history, words = work()
    assert [step for step, *_ in calls] == [0, 2, 4, 6, 8, 10, 12]
    seen = {step: weights for step, _, weights, _ in calls}
    assert not torch.equal(seen[6], seen[8])
    assert [one.objective.attack.step_size for _, one, _, _ in calls] == [1.0] * 5 + [0.75] * 2
    rows = history.rows
    assert [row["rollbacks"] for row in rows] == [
        [],
        [],
        [{"step": 8, "one_step": 0.9, "robust": 0.1, "watched": 0, "objective": repr(GUARD.after(1).objective)}],
        [],
    ]
    assert history.column("robust") == [0.75, 0.75, 0.1, 0.75]
    assert history.column("one_step") == [0.8, 0.8, 0.9, 0.8]
    assert words[-1].endswith("rollbacks so far: 1")
    assert {num for *_, num in calls} == {12}


@pytest.fixture
def after_step(monkeypatch):
    """The state after each step: weights, average, moments."""
    states, heed = {}, fitting.State.heed

    def spy(self, guard, look, step):
        heed(self, guard, look, step)
        states[step] = {name: value.clone() for name, value in self._moving().items()}

    monkeypatch.setattr(fitting.State, "heed", spy)
    return states


def test_back_means_weights_average_and_moments_of_the_last_good_look(saw, after_step):
    _, script = saw
    script[6], script[8] = Look(0.9, 0.7), Look(0.9, 0.1)  # at 6 neither well nor collapsed
    work()
    kinds = {name.split(".")[0] for name in after_step[8]}
    assert kinds == {"model", "averaged", "optimizer"}
    for name, value in after_step[8].items():
        assert torch.equal(value, after_step[4][name]), name
        if "num_batches_tracked" not in name:
            assert not torch.equal(value, after_step[6][name]), name


def test_twice_back_to_the_same_look_is_the_same_place(saw, after_step):
    """The optimiser counts its steps in tensors of its own, not in those it goes back to."""
    _, script = saw
    script[6], script[8] = Look(0.9, 0.1), Look(0.9, 0.1)
    work()
    assert any(name.endswith("step") for name in after_step[8])
    for name, value in after_step[8].items():
        assert torch.equal(value, after_step[4][name]), name


def test_a_collapse_before_anything_was_well_goes_back_to_the_start(saw, after_step):
    _, script = saw
    script.update({step: Look(0.9, 0.2) for step in (2, 4)})
    _, history, _ = work()
    start = network().state_dict()
    assert all(torch.equal(after_step[4][f"model.{name}"], value) for name, value in start.items())
    assert [back["step"] for back in history.rows[1]["rollbacks"]] == [2, 4]
    assert "step_size=0.5625" in history.rows[1]["rollbacks"][-1]["objective"]


def test_a_collapse_at_the_very_end_is_not_what_is_kept(saw, after_step):
    _, script = saw
    script[12] = Look(1.0, 0.0)
    model, _, _ = work(recipe=dataclasses.replace(RECIPE, ema=None))
    assert all(torch.equal(value, after_step[10][f"model.{name}"]) for name, value in model.state_dict().items())


def test_a_guard_that_sees_nothing_wrong_changes_nothing():
    recipe = dataclasses.replace(RECIPE, objective=STEP)
    free, plain, _ = work(recipe=recipe)
    watched, history, _ = work(recipe=dataclasses.replace(RECIPE, objective=dataclasses.replace(GUARD, gap=0.99)))
    assert all(torch.equal(a, b) for a, b in zip(free.parameters(), watched.parameters(), strict=True))
    assert history.column("train_loss") == plain.column("train_loss")
    assert "robust" not in plain.rows[-1]


def test_interrupted_and_gone_on_gives_the_same_bits(saw, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "WITHIN_EPOCH", 0.0)
    monkeypatch.setattr(fitting, "LARGEST_SHARE", float("inf"))
    monkeypatch.setattr(fitting, "_TELL", 0.0)
    _, script = saw
    script[4], script[6], script[10] = Look(0.9, 0.1), Look(0.9, 0.7), Look(0.9, 0.0)
    whole, history, _ = work(tmp_path / "whole")
    assert sum(len(row["rollbacks"]) for row in history.rows) == 2
    for stop_at in (3, 5, 6, 7, 11):  # after a look, between two, at the end of an epoch
        with pytest.raises(Interrupted):
            work(tmp_path / "parts", stop_at=stop_at)
    parts, again, _ = work(tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    logs = [[{**row, "seconds": 0} for row in Run.existing(tmp_path / name).read_log()] for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert [{**row, "seconds": 0} for row in again.rows] == logs[1]


# ---- names and refusals


def test_each_rollback_softens_once_more():
    plain = Guarded(Adversarial(FGSM(), Linf(0.3)))
    attacks = [plain.after(n).objective.attack for n in range(4)]
    assert attacks == [
        FGSM(),
        FGSM(random_start=True),
        FGSM(random_start=True, step_size=0.75),
        FGSM(random_start=True, step_size=0.5625),
    ]
    noises = [Guarded(NFGSM(Linf(0.3), noise=0.0)).after(n).objective.noise for n in range(3)]
    assert noises == [0.0, 0.5, 0.625]
    steps = [Guarded(FGSMRS(Linf(0.3))).after(n).objective.step for n in range(3)]
    assert steps == [1.25, 0.9375, 0.703125]


def test_refusals():
    with pytest.raises(UsageError, match=r"Guarded was given Standard\(\). Expected an objective of a single step"):
        Guarded(Standard())
    with pytest.raises(UsageError, match=r"Adversarial\(PGD\(\), Linf\(0.1\)\) takes no single step, and has nothing"):
        Guarded(Adversarial(PGD(), Linf(0.1)))
    with pytest.raises(UsageError, match=r"TRADES\(Linf\(0.1\)\) takes no single step"):
        Guarded(TRADES(Linf(0.1)))
    with pytest.raises(UsageError, match="num is 0, checks is 4"):
        Guarded(STEP, num=0)
    with pytest.raises(UsageError, match=r"checks is 0. Expected one image and one check or more"):
        Guarded(STEP, checks=0)
    with pytest.raises(UsageError, match=r"gap is 1.0. Expected a share of the images, 0 < gap < 1"):
        Guarded(STEP, gap=1.0)
    with pytest.raises(UsageError, match=r"FGSM.*does not search in L0"):
        Guarded(Adversarial(FGSM(), L0(5.0)))
    with pytest.raises(UsageError, match=r"SigmaZero.*does not search in Linf"):
        Guarded(STEP, SigmaZero())


def test_names_parse():
    for objective in (GUARD, Guarded(AWP(NFGSM(L1(10.0), noise=0.5))), Guarded(NFGSM(Linf(0.3)), num=100, gap=0.25)):
        assert parse(repr(objective), "objective") == objective
        assert parse(repr(Recipe(objective)), "recipe").objective == objective
