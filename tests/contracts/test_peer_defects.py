"""The defects found in other libraries, numbered as in the list of yardsticks: steelman has none of them."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.carlini_wagner import CarliniWagner
from steelman.attacks.ddn import DDN
from steelman.attacks.ead import EAD
from steelman.attacks.fgsm import FGSM
from steelman.attacks.foreign import Foreign
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.cli import main
from steelman.data import Data
from steelman.defences.adversarial import Adversarial
from steelman.errors import UsageError
from steelman.evaluate import strike
from steelman.recipe import Recipe
from steelman.threats import L1, L2, Ball, Linf
from steelman.trust import examine
from tests.contracts.small import SMALL
from tests.contracts.test_attacks import lived_in, near, net, seeded, snapshot, task

CW = CarliniWagner(**SMALL["CarliniWagner"])
NEAREST = pytest.mark.parametrize("attack", [CW, EAD(**SMALL["EAD"]), DDN(steps=20)], ids=repr)


class Pixel(nn.Module):
    """Class 1 where a function of the first pixel is above 0."""

    def __init__(self, rise) -> None:
        super().__init__()
        self.rise = rise

    def forward(self, x: Tensor) -> Tensor:
        rise = self.rise(x[:, 0, 0, 0])
        return torch.stack((torch.zeros_like(rise), rise), 1)


def grey(*levels: int) -> Data:
    """Images of one level each, all of class 0."""
    images = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    return Data(images, torch.zeros(len(levels), dtype=torch.int64), ("dark", "light"))


def verdicts(model: nn.Module, data: Data, attack: Attack, threat: Ball) -> dict[str, str]:
    outcome = strike(model, data, attack, threat, generator=seeded())
    return {check.name: check.verdict for check in examine(model, data, outcome, generator=seeded()).checks}


@NEAREST
def test_01_pixels_of_exactly_0_and_1_move(attack):
    """The nearest change takes half of the way from each of two pixels, 0 and 1: both must leave the range's ends."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))
        model[1].bias.copy_(torch.tensor([-0.8, 0.8]))
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    found = attack.run(model, x, torch.tensor([0]), near(attack, math.inf), closest=True, generator=seeded())
    assert found.success.all()
    assert ((found.x_adv - x).abs() > 0.01).any()
    if attack.norms[0] == "L2":
        assert ((found.x_adv - x).abs() > 0.05).all()
        assert float(found.distance[0]) == pytest.approx(0.2 / math.sqrt(2), rel=0.2)


@NEAREST
def test_02_log_probabilities_are_attacked_as_well_as_logits(attack):
    model, logs = net(), net(last=nn.LogSoftmax(1))
    x, y = task(model, wrong=0)
    threat = near(attack, math.inf)
    one, two = (attack.run(m, x, y, threat, closest=True, generator=seeded()) for m in (model, logs))
    assert one.success.all()
    assert two.success.all()
    assert float(two.distance.median()) < 1.3 * float(one.distance.median())


@NEAREST
def test_03_an_image_fares_alike_whatever_its_batch_mates(attack):
    model = net()
    x, y = task(model, wrong=0)
    threat = near(attack, math.inf)
    together = attack.run(model, x, y, threat, closest=True, generator=seeded()).distance
    for index in (0, 7):
        alone = attack.run(model, x[index : index + 1], y[index : index + 1], threat, closest=True, generator=seeded())
        torch.testing.assert_close(alone.distance, together[index : index + 1], rtol=0, atol=1e-4)


@NEAREST
def test_04_an_image_that_holds_comes_back_as_it_is_and_counts_as_robust(attack):
    """A model that always answers 0, and so does not answer wrongly to an image all black."""
    model = Pixel(lambda pixel: -1 - pixel**2)
    x = torch.rand((4, 1, 3, 3), generator=seeded())
    outcome = strike(model, (x, torch.zeros(4, dtype=torch.int64)), attack, near(attack, math.inf), closest=True)
    assert outcome.robust.value == 1
    assert outcome.distance.isnan().all()
    assert torch.equal(outcome.x_adv, x)


def test_05_autoattack_is_the_published_one():
    """100 steps each, targeted DLR and targeted FAB, no DeepFool, 5,000 queries of Square."""
    first, second, third, fourth = AutoAttack().members
    assert [type(one).__name__ for one in AutoAttack().members] == ["APGD", "APGD", "FAB", "Square"]
    assert (first.loss, first.steps, first.restarts) == ("cross_entropy", 100, 1)
    assert (second.loss, second.steps, second.targets) == ("dlr", 100, 9)
    assert (third.steps, third.targets) == (100, 9)
    assert fourth.queries == 5000
    model = net(3)
    x, y = task(model, n=1, wrong=0)
    found = AutoAttack(queries=10).run(model, x, y, Linf(1e-4), generator=seeded())
    assert (found.backwards >= 300).all()  # 100 steps and more of each of the three: none is cut short


def test_06_restarts_keep_the_worst_not_the_last():
    """Only every tenth random start breaks this model, and a single step leads nowhere."""
    model = Pixel(lambda pixel: 0.5 - ((pixel - 0.5 - 0.09) / 0.006) ** 2)
    x, y = torch.full((40, 1, 1, 1), 0.5), torch.zeros(40, dtype=torch.int64)
    one, many = (Noise(tries=k).run(model, x, y, Linf(0.1), generator=seeded()) for k in (1, 30))
    assert one.success.float().mean() < 0.3
    assert many.success.float().mean() > 0.5
    few, more = (
        PGD(steps=1, step_size=1e-3, restarts=k).run(model, x, y, Linf(0.1), generator=seeded()) for k in (1, 30)
    )
    assert more.success.sum() > few.success.sum() + 5
    with torch.no_grad():
        assert torch.equal(model(more.x_adv).argmax(1) == 1, more.success)


def make(shape, classes):
    """A classifier for the command line: the brighter half wins."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-1, 1, math.prod(shape)).sign() * torch.tensor([[-1.0], [1.0]]))
        model[1].bias.zero_()
    return model


def test_07_an_evaluation_that_was_stopped_goes_on(tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = random.integers(0, 90, (60, 4, 4))
    images[labels == 0, :2] += 20
    images[labels == 1, 2:] += 20
    np.savez(tmp_path / "halves.npz", images=images.astype("uint8"), labels=labels)
    words = ["evaluate", "--model", "tests.contracts.test_peer_defects:make", "--data", str(tmp_path / "halves.npz")]
    words += ["--threat", "Linf(0.04)", "--attack", "FGSM()", "--json"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert 0 < whole["robust"]["value"] < whole["natural"]["value"]

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("steelman.measured.examine", stopped)  # after the attack, before anything is kept
        assert main([*words, "--out", str(tmp_path / "resumed")]) == 130
    capsys.readouterr()
    for _ in range(2):  # goes on, then reads what is finished
        assert main([*words, "--out", str(tmp_path / "resumed")]) == 0
        assert json.loads(capsys.readouterr().out)["robust"] == whole["robust"]


def test_08_a_model_overfitted_to_one_step_is_named():
    """Right at distance 0 and eps, wrong between them: FGSM leaves everything, PGD nothing."""
    model = Pixel(lambda pixel: 1 - ((pixel - 0.4 - 0.1) / 0.07) ** 2)
    data = grey(*[102] * 20)
    assert strike(model, data, FGSM(), Linf(0.2)).robust.value == 1
    assert strike(model, data, PGD(steps=20), Linf(0.2), generator=seeded()).robust.value == 0
    assert verdicts(model, data, FGSM(), Linf(0.2))["FGSM against PGD"] == "fail"
    assert verdicts(model, data, PGD(), Linf(0.2))["FGSM against PGD"] == "warn"


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("attack", [AutoAttack(**SMALL["AutoAttack"]), CW], ids=repr)
def test_09_fewer_than_ten_classes_will_do(attack, classes):
    model = net(classes)
    x, y = task(model, n=6, wrong=0)
    outcome = strike(model, (x, y), attack, near(attack, 0.06), generator=seeded())
    assert outcome.broken.any()


def test_10_an_effect_that_is_lost_in_8_bits_is_said():
    """Broken by a change far below 1/255."""
    model, data = Pixel(lambda pixel: 1e3 * (pixel - 102.1 / 255)), grey(*[102] * 5)
    outcome = strike(model, data, FGSM(), Linf(0.001))
    assert outcome.broken.all()
    assert not outcome.survives.any()
    checks = {check.name: check for check in examine(model, data, outcome).checks}
    assert checks["8-bit survival"].verdict == "warn"
    kept = strike(model, data, FGSM(), Linf(2 / 255))
    assert kept.survives.all()


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        (CW, Linf(8 / 255)),
        (DDN(), Linf(8 / 255)),
        (Foreign("torchattacks.PGDL2(eps=8/255)"), Linf(8 / 255)),
        (Foreign("foolbox.PGD()"), L2(8 / 255)),
        (Foreign("art.PGD(norm=2)"), Linf(8 / 255)),
    ],
    ids=repr,
)
def test_11_an_eps_of_one_norm_is_never_used_for_another(attack, threat):
    model = net()
    with pytest.raises(UsageError, match=r"does not search in Linf|searches in \w+, the threat is"):
        strike(model, task(model), attack, threat)


def test_12_rounding_just_below_0_or_above_1_is_no_reason_to_refuse():
    model = net()
    x, y = task(model, wrong=0)
    odd = x.clone()
    odd[0, 0, 0, 0], odd[1, 0, 1, 1] = -2.98e-8, 1 + 1.2e-7
    outcome = strike(model, (odd, y), PGD(steps=3), Linf(0.05), generator=seeded())
    assert outcome.x_adv.min() >= 0
    assert outcome.x_adv.max() <= 1
    assert outcome.robust == strike(model, (x, y), PGD(steps=3), Linf(0.05), generator=seeded()).robust


def test_13_softmax_outputs_are_not_taken_for_logits():
    data = grey(60, 61)
    assert (
        verdicts(nn.Sequential(Pixel(lambda p: p - 0.5), nn.Softmax(1)), data, FGSM(), Linf(0.01))["logits"] == "fail"
    )
    assert verdicts(Pixel(lambda p: p - 0.5), data, FGSM(), Linf(0.01))["logits"] == "ok"


@pytest.mark.parametrize("attack", [PGD(steps=3), AutoAttack(**SMALL["AutoAttack"])], ids=repr)
def test_14_a_model_in_train_mode_is_measured_in_eval_mode_and_left_as_it_was(attack):
    x, y = task(net(), wrong=0)
    model = lived_in()
    before = snapshot(model)
    outcome = strike(model, (x, y), attack, Linf(0.05), generator=seeded())
    assert snapshot(model) == before
    assert outcome.was_training
    calm = strike(net().eval(), (x, y), attack, Linf(0.05), generator=seeded())
    assert torch.equal(outcome.x_adv, calm.x_adv)


def test_15_training_knows_one_pixel_range_and_has_no_default_eps(capsys, tmp_path):
    """A radius must be given, is meant for [0, 1], and one for 0 to 255 is noticed before and after."""
    with pytest.raises(TypeError, match="threat"):
        Adversarial(PGD())
    assert Recipe().objective.__class__.__name__ == "Standard"
    model, data = Pixel(lambda p: p - 0.9), grey(*range(60, 70))
    images = Adversarial(FGSM(), Linf(8 / 255)).images(model, data.pixels(), data.labels, generator=seeded())
    assert float((images - data.pixels()).abs().max()) == pytest.approx(8 / 255)
    assert verdicts(model, data, FGSM(), Linf(8.0))["eps and range"] == "fail"
    words = ["train", "Linear1(width=4)", "--data", "digits", "--epochs", "1", "--out", str(tmp_path / "r")]
    assert main([*words, "--objective", "Adversarial(FGSM(), Linf(8))"]) == 0
    assert "eps 8 is beyond the pixel range" in capsys.readouterr().err


@pytest.mark.parametrize("ball", [L1(1.0, clip=False), L2(1.0, clip=False)], ids=repr)
def test_16_a_projection_gives_the_nearest_image_and_leaves_those_inside_alone(ball):
    """No point of a dense sample of the ball is nearer; radial rescaling fails this in L1, the sphere inside L2."""
    points = torch.randn((20, 1, 1, 3), generator=seeded()) * 1.5
    clean = torch.zeros_like(points)
    projected = ball.project(points, clean)
    inside = ball.distance(points, clean) <= 1
    assert torch.equal(projected[inside], points[inside])
    sample = torch.cat(
        [
            ball.sample(clean[:1].expand(20_000, -1, -1, -1), seeded(1)),
            ball.at(1.0).project(torch.randn((20_000, 1, 1, 3), generator=seeded(2)) * 2, torch.zeros(20_000, 1, 1, 3)),
        ]
    )
    for point, own in zip(points, projected, strict=True):
        nearest = (sample - point).flatten(1).norm(dim=1).min()
        assert float((own - point).norm()) <= float(nearest) + 1e-5
    if isinstance(ball, L1):
        radial = points / ball.distance(points, clean).clamp_min(1).view(-1, 1, 1, 1)
        assert ((projected - points).flatten(1).norm(dim=1) < (radial - points).flatten(1).norm(dim=1) - 1e-3).any()


@pytest.mark.parametrize("threat", [Linf(0.3), L2(2.0), L1(5.0)], ids=repr)
def test_17_a_random_start_is_allowed(threat):
    x, _ = task(net(), n=50)
    start = threat.sample(x, seeded())
    assert threat.contains(start, x).all()
    assert start.min() >= 0
    assert start.max() <= 1


def test_18_images_whose_gradient_is_nan_are_not_reported_as_robust_unnoticed():
    """The square root's slope at 0 is infinite, and 0 times it NaN: the sign of NaN is 0, and nothing moves."""
    model = Pixel(lambda pixel: (pixel * 0).sqrt() - 0.1 + 0 * pixel)
    data = grey(*[0] * 6)
    outcome = strike(model, data, PGD(steps=5, random_start=False), Linf(0.2))
    assert outcome.robust.value == 1
    found = verdicts(model, data, PGD(steps=5, random_start=False), Linf(0.2))
    assert found["gradient NaN"] == "fail"
    assert found["pixels moved"] == "fail"
