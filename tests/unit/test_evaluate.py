"""strike: what is attacked, what counts as broken, what is refused, and what an outcome tells."""

import dataclasses
import inspect
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steelman import evaluate
from steelman.attacks.fgsm import FGSM
from steelman.attacks.noise import Noise
from steelman.attacks.pgd import PGD
from steelman.attacks.square import Square
from steelman.attacks.strongest import Strongest
from steelman.data import Data
from steelman.errors import PixelError, RunError, ThreatViolation, UsageError
from steelman.evaluate import Outcome, accuracy, adversarial_accuracy, check_pixels, strike
from steelman.stats import clopper_pearson
from steelman.targets import choose_targets
from steelman.threats import L2, Linf


class Threshold(nn.Module):
    """Class 1 where the mean of the pixels is above 0.5; the margin is 20 times what is missing."""

    def forward(self, x: Tensor) -> Tensor:
        rise = 20 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack((torch.zeros_like(rise), rise), 1)


def flat(*values: float) -> Tensor:
    """2 x 2 images of one grey each."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)


def grey_data() -> Data:
    levels = torch.tensor([26, 77, 115, 140, 180, 230], dtype=torch.uint8)
    images = levels.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    return Data(images, torch.tensor([0, 0, 0, 0, 1, 1]), ("dark", "light"))


# ---- what is measured


def test_a_strike_attacks_what_is_right_and_leaves_the_rest():
    """An image that was wrong from the start is neither attacked nor counted as broken."""
    x = flat(0.1, 0.3, 0.45, 0.7)
    outcome = strike(Threshold(), (x, zeros(4)), FGSM(), Linf(0.25))
    assert outcome.right.tolist() == [True, True, True, False]
    assert outcome.broken.tolist() == [False, True, True, False]
    assert outcome.before.tolist() == [0, 0, 0, 1]
    assert outcome.after.tolist() == [0, 1, 1, 1]
    assert torch.equal(outcome.x_adv[3], x[3])
    assert outcome.forwards.tolist() == [2, 2, 2, 0]
    assert outcome.backwards.tolist() == [1, 1, 1, 0]
    assert outcome.health.steps.tolist() == [1, 1, 1, 0]
    torch.testing.assert_close(outcome.distance, torch.tensor([math.nan, 0.25, 0.25, math.nan]), equal_nan=True)
    torch.testing.assert_close(outcome.margin[:3], torch.tensor([-3.0, 1.0, 4.0]))
    assert outcome.margin[3].isnan()
    assert (outcome.natural.value, outcome.natural.n) == (0.75, 4)
    assert (outcome.robust.value, outcome.robust.n) == (0.25, 4)
    assert (outcome.robust.low, outcome.robust.high) == clopper_pearson(1, 4)


def test_confidence_is_the_softmax_of_the_prediction():
    outcome = strike(Threshold(), (flat(0.4, 0.1), zeros(2)), FGSM(), Linf(0.2))
    sigmoid = [1 / (1 + math.exp(-z)) for z in (2, 8, 2, 4)]
    torch.testing.assert_close(outcome.before_confidence, torch.tensor(sigmoid[:2]))
    torch.testing.assert_close(outcome.after_confidence, torch.tensor(sigmoid[2:]))


def test_a_data_set_is_struck_as_its_pixels():
    data = grey_data()
    first = strike(Threshold(), data, FGSM(), Linf(0.1))
    second = strike(Threshold(), (data.images.float() / 255, data.labels), FGSM(), Linf(0.1))
    assert torch.equal(first.x_adv, second.x_adv)
    assert torch.equal(first.broken, second.broken)
    assert first.right.tolist() == [True, True, True, False, True, True]
    assert torch.equal(accuracy(Threshold(), data), first.right)


def test_when_nothing_is_right_nothing_is_attacked():
    outcome = strike(Threshold(), (flat(0.7, 0.8), zeros(2)), PGD(), Linf(0.1))
    assert outcome.natural.value == outcome.robust.value == 0
    assert not outcome.forwards.any()
    assert not outcome.broken.any()


def test_each_norm_is_taken_as_it_is_named():
    """The radius of one norm silently used for another: eps in L2 spreads over the four pixels."""
    x = flat(0.4)
    assert strike(Threshold(), (x, zeros(1)), FGSM(), Linf(0.11)).broken.all()
    assert not strike(Threshold(), (x, zeros(1)), FGSM(), L2(0.19)).broken.any()
    outcome = strike(Threshold(), (x, zeros(1)), FGSM(), L2(0.21))
    assert outcome.broken.all()
    torch.testing.assert_close(outcome.distance, torch.tensor([0.21]))


def test_a_target_must_be_reached():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0] * 4, [1.0, 1, 0, 0], [0, 0, 1.0, 1]]))
        model[1].bias.copy_(torch.tensor([1.0, 0, 0]))
    x, target = flat(0.4, 0.4), torch.tensor([1, 2])
    outcome = strike(model, (x, zeros(2)), PGD(steps=10, loss="margin"), Linf(0.2), target=target)
    assert outcome.broken.all()
    assert torch.equal(outcome.after, target)
    far = strike(model, (x, zeros(2)), PGD(steps=10), Linf(0.05), target=target)
    assert not far.broken.any()
    assert far.distance.isnan().all()


@pytest.mark.parametrize("kind", ["random", "least-likely", "next"])
def test_a_target_can_be_chosen_for_each_image(kind):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
        model[1].bias.zero_()
    x = torch.rand((12, 1, 2, 2), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(1)
    y[0] = (y[0] + 2) % 5  # wrong from the start; it has a target all the same
    generator = torch.Generator().manual_seed(7)
    outcome = strike(model, (x, y), PGD(steps=5), Linf(0.6), target=kind, generator=generator)
    expected = {
        "random": choose_targets("random", logits, y, torch.Generator().manual_seed(7)),
        "least-likely": logits.scatter(1, y[:, None], math.inf).argmin(1),
        "next": (y + 1) % 5,
    }
    assert torch.equal(outcome.target, expected[kind])
    assert torch.equal(outcome.broken, outcome.right & (outcome.after == outcome.target))
    assert outcome.broken.any() or kind == "least-likely"  # a class that no image near is taken for
    assert strike(model, (x, y), FGSM(), Linf(0.1)).target is None


def test_random_targets_without_a_generator_are_those_of_seed_0():
    x, y = torch.rand(9, 1, 2, 2), torch.arange(9) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    first, second = (strike(model, (x, y), FGSM(), Linf(0.1), target="random").target for _ in range(2))
    assert torch.equal(first, second)


def test_closest_finds_a_nearer_success():
    attack = Strongest((FGSM(), PGD(steps=8, step_size=0.125, random_start=False)))
    for closest, distance in ((False, 0.6), (True, 0.125)):  # white, or one small step
        outcome = strike(Threshold(), (flat(0.4), zeros(1)), attack, Linf(1.0), closest=closest)
        assert outcome.broken.all()
        torch.testing.assert_close(outcome.distance, torch.tensor([distance]))


def test_what_an_image_file_does_to_it_is_told():
    """The effect that is lost when saved as an 8-bit image."""

    class Fraction(nn.Module):
        """Class 1 where the pixels are more than `limit` levels above 100."""

        def __init__(self, limit: float) -> None:
            super().__init__()
            self.limit = limit

        def forward(self, x: Tensor) -> Tensor:
            rise = x.flatten(1).mean(1) * 255 - 100 - self.limit
            return torch.stack((torch.zeros_like(rise), rise), 1)

    x = flat(100 / 255)
    for levels, limit, survives in ((0.4, 0.3, False), (0.6, 0.3, True), (1.4, 1.2, False), (1.6, 1.2, True)):
        outcome = strike(Fraction(limit), (x, zeros(1)), FGSM(), Linf(levels / 255))
        assert outcome.broken.all()
        assert outcome.survives.tolist() == [survives]
    held = strike(Fraction(0.3), (x, zeros(1)), FGSM(), Linf(0.2 / 255))
    assert not held.broken.any()
    assert not held.survives.any()


def test_a_random_generator_is_handed_on_and_the_global_one_untouched():
    state = torch.random.get_rng_state()
    runs = [
        strike(Threshold(), grey_data(), Noise(1), Linf(0.1), generator=torch.Generator().manual_seed(seed)).margin
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0][:3], runs[1][:3])
    assert not torch.equal(runs[0][:3], runs[2][:3])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_progress_is_told():
    told: list[tuple[int, int, str]] = []
    strike(Threshold(), grey_data(), FGSM(), Linf(0.1), progress=lambda *words: told.append(words))
    assert told == [(5, 5, "FGSM()")]


# ---- the model is not the caller's loss


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(1), Threshold()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x - 0.5) + 0.5)


def test_train_mode_is_noted_put_aside_and_restored():
    """A model left in train mode; its BatchNorm statistics moved by the attack."""
    model = Normed().train()
    statistics = model.norm.running_mean.clone(), model.norm.num_batches_tracked.clone()
    outcome = strike(model, grey_data(), PGD(steps=3), Linf(0.1))
    assert outcome.was_training
    assert model.training
    assert model.norm.training
    assert torch.equal(model.norm.running_mean, statistics[0])
    assert torch.equal(model.norm.num_batches_tracked, statistics[1])
    calm = strike(model.eval(), grey_data(), PGD(steps=3), Linf(0.1))
    assert not calm.was_training
    assert torch.equal(calm.x_adv, outcome.x_adv)
    assert model.norm.weight.grad is None


def test_an_error_restores_the_model_too(monkeypatch):
    def fail(self: FGSM, problem: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(FGSM, "search", fail)
    model = Normed().train()
    with pytest.raises(RuntimeError, match="out of luck"):
        strike(model, grey_data(), FGSM(), Linf(0.1))
    assert model.norm.training
    assert model.norm.weight.requires_grad


# ---- nothing counts that should not


def test_an_attack_that_leaves_its_threat_is_caught(monkeypatch):
    def escape(self: FGSM, problem: object) -> None:
        problem.best = problem.x + 0.5

    monkeypatch.setattr(FGSM, "search", escape)
    words = r"FGSM\(\) returned 3 of 3 images outside Linf\(0\.1\) \(distance up to 0\.5\)\. Project before returning"
    with pytest.raises(ThreatViolation, match=words):
        strike(Threshold(), (flat(0.1, 0.2, 0.3), zeros(3)), FGSM(), Linf(0.1))


def test_an_attack_that_shows_forbidden_candidates_gains_nothing(monkeypatch):
    """A random start or a step that nobody projects."""

    def stray(self: FGSM, problem: object) -> None:
        problem.value(problem.x + 0.5, "margin")

    monkeypatch.setattr(FGSM, "search", stray)
    outcome = strike(Threshold(), (flat(0.1, 0.2), zeros(2)), FGSM(), Linf(0.1))
    assert not outcome.broken.any()
    assert outcome.rejected.tolist() == [1, 1]
    assert torch.equal(outcome.x_adv, flat(0.1, 0.2))


def test_success_is_judged_on_what_comes_back_not_on_what_the_attack_says(monkeypatch):
    """A failed image that comes back black and is counted as a success."""

    def boast(self: FGSM, problem: object) -> None:
        problem.success |= True

    monkeypatch.setattr(FGSM, "search", boast)
    outcome = strike(Threshold(), (flat(0.1, 0.2), zeros(2)), FGSM(), Linf(0.1))
    assert not outcome.broken.any()
    assert outcome.distance.isnan().all()
    assert outcome.robust.value == 1


class NotANumber(nn.Module):
    """NaN as soon as a pixel is not a whole level."""

    def forward(self, x: Tensor) -> Tensor:
        whole = ((x * 255).round() / 255 - x).abs().flatten(1).amax(1) < 1e-6
        logits = Threshold()(x)
        return torch.where(whole[:, None], logits, torch.nan)


def test_outputs_that_are_not_numbers_are_neither_right_nor_broken():
    outcome = strike(NotANumber(), grey_data(), Noise(3), Linf(0.05))
    assert outcome.right.tolist() == [True, True, True, False, True, True]
    assert not outcome.broken.any()
    half = (flat(100 / 255, 100.5 / 255), zeros(2))
    assert strike(NotANumber(), half, FGSM(), Linf(0.0)).right.tolist() == [True, False]
    assert accuracy(NotANumber(), half).tolist() == [True, False]


def test_classes_ruled_out_by_minus_infinity_do_no_harm():
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((Threshold()(x), torch.full((len(x), 1), -math.inf)), 1)

    plain, masked = (strike(model, grey_data(), PGD(steps=5), Linf(0.1)) for model in (Threshold(), Masked()))
    assert torch.equal(plain.broken, masked.broken)
    assert torch.equal(plain.right, masked.right)


# ---- accuracy under an attack on all images


def test_adversarial_accuracy_attacks_wrong_images_as_well():
    class Helped(Threshold):
        """A step away from a wrong label's loss can only make the image right when its gradient lies."""

        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(2 * x.detach() - x)

    x = flat(0.45, 0.6)
    assert adversarial_accuracy(Threshold(), (x, zeros(2)), FGSM(), Linf(0.02)).tolist() == [True, False]
    assert adversarial_accuracy(Threshold(), (x, zeros(2)), FGSM(), Linf(0.1)).tolist() == [False, False]
    assert accuracy(Helped(), (x, zeros(2))).tolist() == [False, True]
    assert adversarial_accuracy(Helped(), (x, zeros(2)), FGSM(), Linf(0.2)).tolist() == [True, True]
    assert adversarial_accuracy(Threshold(), grey_data(), FGSM(), Linf(0.0)).tolist() == [True] * 3 + [
        False,
        True,
        True,
    ]


# ---- an outcome on disk


@pytest.mark.parametrize("stem", ["outcome", "pgd-0.30", "deep/down/fgsm"])
def test_an_outcome_comes_back_from_disk(tmp_path, stem):
    attack = Strongest((FGSM(), PGD(steps=3)))
    outcome = strike(Threshold(), grey_data(), attack, Linf(0.1))
    outcome.save(tmp_path / stem)
    back = Outcome.load(tmp_path / stem)
    assert (back.attack, back.threat) == (attack, Linf(0.1))
    for field in dataclasses.fields(Outcome):
        value, other = getattr(outcome, field.name), getattr(back, field.name)
        if isinstance(value, Tensor):
            torch.testing.assert_close(other, value, equal_nan=True, rtol=0, atol=0)
    for field in dataclasses.fields(outcome.health):
        assert torch.equal(getattr(back.health, field.name), getattr(outcome.health, field.name))
    assert back.natural == outcome.natural
    assert back.robust == outcome.robust
    assert back.seconds == pytest.approx(outcome.seconds, abs=1e-3)


def test_an_outcome_from_before_samples_were_marked_takes_all_audited_for_the_sample(tmp_path):
    outcome = strike(Threshold(), grey_data(), FGSM(), Linf(0.1))
    outcome.audited[2] = True
    outcome.save(tmp_path / "old")
    tensors = load_file(tmp_path / "old.safetensors")
    del tensors["sampled"]
    save_file(tensors, tmp_path / "old.safetensors")
    old = Outcome.load(tmp_path / "old")
    assert torch.equal(old.sampled, outcome.audited)
    old.save(tmp_path / "again")
    assert torch.equal(Outcome.load(tmp_path / "again").sampled, outcome.audited)


def test_outcomes_whose_names_differ_after_a_dot_do_not_overwrite_each_other(tmp_path):
    for eps in (0.1, 0.15):
        strike(Threshold(), grey_data(), FGSM(), Linf(eps)).save(tmp_path / f"fgsm-{eps}")
    assert Outcome.load(tmp_path / "fgsm-0.1").threat == Linf(0.1)
    assert Outcome.load(tmp_path / "fgsm-0.15").threat == Linf(0.15)
    words = json.loads((tmp_path / "fgsm-0.15.json").read_text())
    assert words["threat"] == "Linf(0.15)"
    assert words["robust"]["n"] == 6
    assert words["gradients"] == 5


def test_an_outcome_that_cannot_be_read_is_named(tmp_path):
    words = r"cannot read the outcome .*gone.*Expected its \.safetensors and \.json"
    with pytest.raises(RunError, match=words):
        Outcome.load(tmp_path / "gone")
    strike(Threshold(), grey_data(), FGSM(), Linf(0.1)).save(tmp_path / "gone")
    whole = (tmp_path / "gone.safetensors").read_bytes(), (tmp_path / "gone.json").read_text()
    (tmp_path / "gone.safetensors").write_bytes(whole[0][:50])
    with pytest.raises(RunError, match=words):
        Outcome.load(tmp_path / "gone")
    (tmp_path / "gone.safetensors").write_bytes(whole[0])
    for text in ("{", "[]", "{}", whole[1].replace("FGSM()", "Gone()")):
        (tmp_path / "gone.json").write_text(text)
        with pytest.raises(RunError, match=words):
            Outcome.load(tmp_path / "gone")


def test_a_targeted_outcome_keeps_its_targets_on_disk(tmp_path):
    outcome = strike(Threshold(), grey_data(), FGSM(), Linf(0.1), target="next")
    outcome.save(tmp_path / "aimed")
    assert torch.equal(Outcome.load(tmp_path / "aimed").target, outcome.target)


def test_a_kill_while_saving_leaves_the_old_outcome(tmp_path, monkeypatch):
    old = strike(Threshold(), grey_data(), FGSM(), Linf(0.1))
    old.save(tmp_path / "set")

    def killed(self, text):
        (tmp_path / self).write_bytes(b"half a fi")
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        strike(Threshold(), grey_data(), FGSM(), Linf(0.2)).save(tmp_path / "set")
    monkeypatch.undo()
    assert Outcome.load(tmp_path / "set").threat == old.threat
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.json", "set.safetensors"]


def test_an_outcome_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*set\.safetensors \(.*\)\. Make room or give a place"):
        strike(Threshold(), grey_data(), FGSM(), Linf(0.1)).save(tmp_path / "file" / "set")


def test_rows_of_different_length_are_refused(tmp_path):
    strike(Threshold(), grey_data(), FGSM(), Linf(0.1)).save(tmp_path / "set")
    tensors = load_file(tmp_path / "set.safetensors")
    for name, change in (("distance", tensors["distance"][:4]), ("health.moved", torch.tensor(1.0))):
        save_file({**tensors, name: change}, tmp_path / "set.safetensors")
        with pytest.raises(RunError, match=rf"cannot read the outcome .*: {name} has \d rows, y has 6\. Expected"):
            Outcome.load(tmp_path / "set")


# ---- bad input, in one clear line


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), r"images are torch\.uint8\. Expected float32 .*: divide by 255"),
        (
            torch.zeros(2, 1, 2, 2, dtype=torch.float64),
            r"images are torch\.float64\. Expected float32 .*: call \.float",
        ),
        (torch.zeros(2, 2), r"images have shape \(2, 2\)\. Expected \(n, channels, height, width\)"),
        (torch.zeros(0, 1, 2, 2), r"images have shape \(0, 1, 2, 2\)\. Expected .* n at least 1"),
        (flat(0.5, 200.0), r"pixels run from 0\.5 to 200\. Expected \[0, 1\]: .*0 to 255, divide by 255"),
        (flat(-0.42, 2.8), r"pixels run from -0\.42 to 2\.8\. .*look normalised; .*Normalize\(mean, std\)"),
        (flat(0.0, 1.2), r"pixels run from 0 to 1\.2\. Expected \[0, 1\]: rescale the pixels"),
        (flat(0.0, math.nan), r"pixels run from nan to nan\. Expected \[0, 1\]: the images hold NaN"),
        (flat(0.0, math.inf), r"pixels run from 0 to inf"),
    ],
)
def test_images_that_are_no_pixels_are_refused_with_the_likely_cause(x, words):
    with pytest.raises(PixelError, match=words) as caught:
        check_pixels(x)
    assert "\n" not in str(caught.value)
    if x.dtype == torch.float32 and x.ndim == 4:
        for call in (lambda: strike(Threshold(), (x, zeros(len(x))), FGSM(), Linf(0.1)),
                     lambda: accuracy(Threshold(), (x, zeros(len(x)))),
                     lambda: adversarial_accuracy(Threshold(), (x, zeros(len(x))), FGSM(), Linf(0.1))):  # fmt: skip
            with pytest.raises(PixelError, match=words):
                call()


def test_a_rounding_error_below_zero_is_clamped_and_not_refused():
    """Input rejected because its minimum is -2.98e-08."""
    x = flat(-2.98e-08, 1 + 5e-7)
    assert check_pixels(x).tolist() == flat(0.0, 1.0).tolist()
    outcome = strike(Threshold(), (x, torch.tensor([0, 1])), FGSM(), Linf(0.1))
    assert outcome.natural.value == 1
    assert outcome.x_adv.min() >= 0
    assert outcome.x_adv.max() <= 1
    kept = flat(0.0, 1.0)
    assert check_pixels(kept) is kept


def test_labels_and_targets_are_checked():
    x = flat(0.1, 0.2)
    for y in (torch.tensor([0, 2]), torch.tensor([-1, 0])):
        words = rf"labels run from {int(y.min())} to {int(y.max())}, the model knows 2 classes\. Expected 0 to 1"
        for call in (
            lambda y=y: strike(Threshold(), (x, y), FGSM(), Linf(0.1)),
            lambda y=y: accuracy(Threshold(), (x, y)),
            lambda y=y: adversarial_accuracy(Threshold(), (x, y), FGSM(), Linf(0.1)),
        ):
            with pytest.raises(UsageError, match=words):
                call()
    with pytest.raises(UsageError, match=r"3 labels for 2 images\. Expected one an image"):
        inspect.unwrap(evaluate._check_labels)(zeros(3), torch.zeros(2, 2))
    with pytest.raises(UsageError, match=r"targets run from 0 to 7, the model knows 2 classes"):
        strike(Threshold(), (x, zeros(2)), FGSM(), Linf(0.1), target=torch.tensor([0, 7]))
    with pytest.raises(UsageError, match=r"1 of 2 targets are the image's own label\. Expected another class; leave"):
        strike(Threshold(), (x, zeros(2)), FGSM(), Linf(0.1), target=torch.tensor([0, 1]))


def test_labels_of_another_whole_number_type_are_taken():
    outcome = strike(Threshold(), (flat(0.45, 0.1), zeros(2).int()), PGD(steps=2), Linf(0.1))
    assert outcome.broken.tolist() == [True, False]


def test_images_of_the_wrong_shape_for_the_model_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(
        PixelError, match=r"does not take images of shape \(1, 2, 2\) .*Give images of the shape"
    ) as caught:
        strike(model, (flat(0.1), zeros(1)), FGSM(), Linf(0.1))
    assert "\n" not in str(caught.value)
    with pytest.raises(PixelError, match=r"does not take images of shape \(1, 2, 2\)"):
        accuracy(nn.Conv2d(3, 2, 1), (flat(0.1), zeros(1)))


def test_other_errors_of_the_model_are_left_as_they_are():
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no luck today")

    with pytest.raises(RuntimeError, match="no luck today"):
        strike(Broken(), (flat(0.1), zeros(1)), FGSM(), Linf(0.1))


def test_a_model_of_another_precision_is_refused_with_the_remedy():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).double()
    with pytest.raises(
        UsageError, match=r"weights are torch.float64, the images torch.float32\. Convert it: model\.float"
    ):
        accuracy(model, (flat(0.1), zeros(1)))


def test_a_model_that_squeezes_takes_one_image_too():
    class Squeezing(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.squeeze()[:, None, None, None])

    assert strike(Squeezing(), (flat(0.45), zeros(1)), FGSM(), Linf(0.1)).broken.tolist() == [True]


def test_gradients_are_not_to_be_had_in_inference_mode():
    with (
        torch.inference_mode(),
        pytest.raises(UsageError, match=r"inference_mode\(\) leaves no gradients\. Attack outside"),
    ):
        strike(Threshold(), (flat(0.45), zeros(1)), PGD(), Linf(0.1))
    with torch.no_grad():
        assert strike(Threshold(), (flat(0.45), zeros(1)), PGD(), Linf(0.1)).broken.tolist() == [True]


def test_a_direct_call_refuses_pixels_that_its_threat_rules_out():
    """Every candidate would be refused, and all images would look robust."""
    x = flat(-0.3, 1.4)
    with pytest.raises(
        PixelError, match=r"pixels run from -0\.3 to 1\.4, and Linf\(0\.1\) allows none outside \[0, 1\]"
    ):
        PGD()(Threshold(), x, zeros(2), Linf(0.1))
    assert PGD()(Threshold(), x, zeros(2), Linf(0.9, clip=False))[0].max() > 0.5


def test_images_of_double_precision_can_be_attacked_one_after_the_other():
    x = flat(0.45, 0.2, 0.48).double()
    found = PGD(steps=3).run(Threshold(), x, zeros(3), Linf(0.1))
    assert (found.x_adv.dtype, found.success.tolist()) == (torch.float64, [True, False, True])


def test_noise_does_not_depend_on_the_layout_in_memory():
    x = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    for attack in (Noise(tries=2), PGD(steps=2), Square(queries=20)):
        for call in (attack, attack.perturb):
            one = call(model, x, zeros(6), L2(0.4))
            other = call(model, x.to(memory_format=torch.channels_last), zeros(6), L2(0.4))
            torch.testing.assert_close(one, other)


def test_a_seed_below_0_is_a_seed():
    """torch takes any 64 bits; what a model draws follows from them."""
    outcomes = [
        strike(Threshold(), (flat(0.45), zeros(1)), Noise(), Linf(0.1), generator=torch.Generator().manual_seed(-1))
        for _ in range(2)
    ]
    assert torch.equal(outcomes[0].x_adv, outcomes[1].x_adv)


def test_a_model_without_logits_is_refused():
    with pytest.raises(
        UsageError, match=r"returned shape \((\d+), 1, 2, 2\) for \1 images\. Expected a tensor of logits"
    ):
        strike(nn.Identity(), (flat(0.1), zeros(1)), FGSM(), Linf(0.1))
