"""The problem that every attack searches in: it judges, remembers, counts and watches the gradients."""

import math

import pytest
import torch
from torch import Tensor, nn

from steelman.attacks import Found, Problem
from steelman.attacks.fgsm import FGSM
from steelman.attacks.found import broken, join
from steelman.attacks.pgd import PGD
from steelman.threats import Linf


class Ridge(nn.Module):
    """The margin of class 1 over class 0 as a function of an image's first pixel."""

    def __init__(self, centre: float, width: float, height: float = 1.0) -> None:
        super().__init__()
        self.centre, self.width, self.height = centre, width, height

    def forward(self, x: Tensor) -> Tensor:
        rise = self.height - ((x[:, 0, 0, 0] - self.centre) / self.width) ** 2
        return torch.stack((torch.zeros_like(rise), rise), 1)


def pixel(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def problem(model: nn.Module, x: Tensor, **options: object) -> Problem:
    y = options.pop("y", torch.zeros(len(x), dtype=torch.int64))
    threat = options.pop("threat", Linf(0.3))
    options = {"batch": 2, "generator": torch.Generator().manual_seed(0), **options}
    return Problem(model, x, y, threat, **options)


# ---- memory


def test_a_search_that_passes_the_only_adversarial_point_still_returns_it():
    """Only an iterate in the middle is adversarial; the last one is not."""
    model, x = Ridge(centre=0.605, width=0.02), pixel(0.5)
    attack = PGD(steps=2, step_size=1 / 3, random_start=False)  # looks at .5, at .6 (broken), and would go on
    last = attack.perturb(model, x, torch.tensor([0]), Linf(0.3))
    assert model(last)[0, 1] < 0
    found = attack.run(model, x, torch.tensor([0]), Linf(0.3))
    assert found.success.all()
    torch.testing.assert_close(found.x_adv, pixel(0.6))
    nearest = attack.run(model, x, torch.tensor([0]), Linf(0.3), closest=True)
    torch.testing.assert_close(nearest.x_adv, pixel(0.6))
    torch.testing.assert_close(nearest.distance, torch.tensor([0.1]))


def test_without_a_success_the_largest_margin_is_kept_not_the_last():
    model, x = Ridge(centre=0.6, width=0.02, height=-0.5), pixel(0.5)
    found = PGD(steps=4, step_size=1 / 3, random_start=False).run(model, x, torch.tensor([0]), Linf(0.3))
    assert not found.success.any()
    torch.testing.assert_close(found.x_adv, pixel(0.6))
    torch.testing.assert_close(found.score, torch.tensor([-0.5]))
    assert found.distance.isnan().all()


@pytest.mark.parametrize("order", [(0.55, 0.65, 0.5), (0.65, 0.55, 0.5), (0.5, 0.65, 0.55)])
def test_the_problem_remembers_the_best_candidate_in_whatever_order(order):
    search = problem(Ridge(0.64, 0.02, height=-0.5), pixel(0.5))
    for value in order:
        search.value(pixel(value), "margin")
    torch.testing.assert_close(search.found().x_adv, pixel(0.65))
    torch.testing.assert_close(search.found().score, torch.tensor([-0.75]))


@pytest.mark.parametrize("order", [(0.7, 0.62, 0.66), (0.62, 0.7, 0.66)])
def test_the_nearest_success_is_kept_in_whatever_order(order):
    search = problem(Ridge(0.65, 0.1), pixel(0.5), closest=True)
    for value in order:
        search.value(pixel(value), "margin")
    assert not search.done
    torch.testing.assert_close(search.found().x_adv, pixel(0.62))
    torch.testing.assert_close(search.found().distance, torch.tensor([0.12]))


def test_a_broken_image_is_finished_and_keeps_its_first_success():
    seen: list[Tensor] = []

    class Watched(Ridge):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return super().forward(x)

    search = problem(Watched(0.6, 0.05), pixel(0.5, 0.5, 0.5), batch=10)
    search.value(pixel(0.6, 0.5, 0.52), "margin")
    assert search.num_active == 2
    values, grads = search.value_and_grad(pixel(0.61, 0.54, 0.53), "margin")
    torch.testing.assert_close(seen[1][:2], pixel(0.54, 0.53))  # the rest are copies that fill up a batch
    assert 0.61 not in seen[1]
    assert values[0] == 0
    assert grads[0] == 0
    assert (grads[1:] > 0).all()
    values = search.value(pixel(0.61, 0.52, 0.56), "margin")
    torch.testing.assert_close(values, torch.tensor([0, 1 - 1.6**2, 1 - 0.8**2]))
    torch.testing.assert_close(search.found().x_adv, pixel(0.6, 0.54, 0.56))
    assert search.found().success.tolist() == [True, False, True]
    assert search.found().forwards.tolist() == [1, 3, 3]
    assert search.found().backwards.tolist() == [0, 1, 1]


# ---- judgement


def test_a_candidate_outside_the_threat_is_rejected_and_counted():
    """Success judged without looking whether the image is allowed."""
    search = problem(Ridge(0.9, 0.05), pixel(0.5, 0.5))
    search.value(pixel(0.9, 0.75), "margin")
    assert search.rejected.tolist() == [1, 0]
    assert not search.success.any()
    torch.testing.assert_close(search.best, pixel(0.5, 0.75))
    assert search.score[0] == -math.inf
    torch.testing.assert_close(search.score[1], torch.tensor(-8.0))
    search.value_and_grad(pixel(0.5, 1.2), "margin")
    assert search.found().rejected.tolist() == [1, 1]


def test_a_candidate_outside_the_pixel_range_is_rejected_too():
    search = problem(Ridge(1.1, 0.05), pixel(0.9))
    search.value(pixel(1.1), "margin")
    assert search.found().rejected.tolist() == [1]
    assert not search.found().success
    free = problem(Ridge(1.1, 0.05), pixel(0.9), threat=Linf(0.3, clip=False))
    free.value(pixel(1.1), "margin")
    assert free.found().success


def test_a_candidate_that_is_nan_is_rejected():
    search = problem(Ridge(0.5, 0.05, -1), pixel(0.5))
    search.value(pixel(math.nan), "cross_entropy")
    assert search.rejected.tolist() == [1]
    torch.testing.assert_close(search.best, pixel(0.5))


@pytest.mark.parametrize(
    ("logits", "y", "target", "expected"),
    [
        ([1.0, 2.0, 0.0], 1, None, False),
        ([1.0, 2.0, 0.0], 0, None, True),
        ([1.0, 2.0, 0.0], 0, 2, False),
        ([1.0, 0.0, 2.0], 0, 2, True),
        ([math.nan, math.nan, math.nan], 1, None, False),
        ([0.0, math.nan, 1.0], 0, None, False),
        ([math.nan, 0.0, 1.0], 0, 2, False),
        ([0.0, 1.0, math.inf], 0, None, False),
        ([-math.inf, -math.inf, -math.inf], 1, None, False),
        ([1.0, 2.0, -math.inf], 0, None, True),  # a class that is ruled out
    ],
)
def test_broken_means_another_finite_prediction(logits, y, target, expected):
    aim = None if target is None else torch.tensor([target])
    assert bool(broken(torch.tensor([logits]), torch.tensor([y]), aim)) is expected


def test_outputs_of_half_precision_are_judged_in_float32():
    class Half(Ridge):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).bfloat16()

    search = problem(Half(0.6, 0.05), pixel(0.5))
    values, grad = search.value_and_grad(pixel(0.55), "margin")
    assert values.dtype == search.score.dtype == torch.float32
    assert grad > 0


def test_nothing_is_judged_for_training():
    search = problem(Ridge(0.6, 0.05), pixel(0.5, 0.5, 0.5), judged=False)
    search.value_and_grad(pixel(0.6, 0.6, 0.6), "cross_entropy")
    assert search.num_active == 3
    torch.testing.assert_close(search.best, pixel(0.6, 0.6, 0.6))
    search.show(pixel(0.1, 0.2, 0.3))
    torch.testing.assert_close(search.best, pixel(0.1, 0.2, 0.3))
    assert not search.forwards.any()


def test_values_are_the_loss_and_grads_its_derivative():
    search = problem(Ridge(0.6, 0.1), pixel(0.5, 0.4, 0.45))
    values, grads = search.value_and_grad(pixel(0.4, 0.35, 0.3), "margin")
    torch.testing.assert_close(values, torch.tensor([1 - 4.0, 1 - 6.25, 1 - 9.0]))
    torch.testing.assert_close(grads, pixel(40.0, 50.0, 60.0))
    towards = problem(Ridge(0.6, 0.1), pixel(0.5), target=torch.tensor([1]), y=torch.tensor([0]))
    torch.testing.assert_close(towards.value(pixel(0.4), "margin"), torch.tensor([-3.0]))


# ---- health of gradients


class Saturated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).sum(1)
        return torch.stack((1e4 * flat, torch.zeros_like(flat)), 1)


class Quantised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        flat = ((x * 255).round() / 255).flatten(1).sum(1)
        return torch.stack((flat, -flat), 1)


class Root(nn.Module):
    """The square root at 0, as in the energy of a complex cell on a black background."""

    def forward(self, x: Tensor) -> Tensor:
        flat = (x**2).sqrt().flatten(1).sum(1)
        return torch.stack((flat, -flat), 1)


def health(model: nn.Module, x: Tensor) -> dict[str, float]:
    search = problem(model, x)
    search.value_and_grad(x, "cross_entropy")
    return {name: float(getattr(search.health, name)[0]) for name in ("steps", "nan", "zero", "dead", "saturated")}


def test_health_of_a_plain_gradient():
    x = torch.full((1, 1, 2, 2), 0.5)
    assert health(Root(), x) == {"steps": 1, "nan": 0, "zero": 0, "dead": 0, "saturated": 0}


def test_health_sees_nan_gradients():
    """The sign of NaN is 0: pixels that are not attacked at all."""
    x = torch.tensor([0.5, 0, 0, 0.5]).view(1, 1, 2, 2)
    assert health(Root(), x) == {"steps": 1, "nan": 0.5, "zero": 0, "dead": 0, "saturated": 0}
    assert health(Root(), torch.zeros(1, 1, 2, 2)) == {"steps": 1, "nan": 1, "zero": 0, "dead": 1, "saturated": 0}


def test_health_sees_gradients_of_zero():
    x = torch.full((1, 1, 2, 2), 0.5)
    assert health(Quantised(), x) == {"steps": 1, "nan": 0, "zero": 1, "dead": 1, "saturated": 0}

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((x[:, 0, 0].sum(1), -x[:, 0, 0].sum(1)), 1)

    assert health(Half(), x) == {"steps": 1, "nan": 0, "zero": 0.5, "dead": 0, "saturated": 0}


def test_health_sees_a_saturated_softmax():
    x = torch.full((1, 1, 2, 2), 0.5)
    assert health(Saturated(), x) == {"steps": 1, "nan": 0, "zero": 1, "dead": 1, "saturated": 1}


def test_zero_and_nan_together_leave_nothing_to_use():
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = (x[:, 0, 0] ** 2).sqrt().sum(1)
            return torch.stack((flat, -flat), 1)

    assert health(Both(), torch.zeros(1, 1, 2, 2)) == {"steps": 1, "nan": 0.5, "zero": 0.5, "dead": 1, "saturated": 0}


def test_health_knows_how_many_pixels_ever_moved():
    x = torch.full((2, 1, 2, 2), 0.5)
    search = problem(Root(), x)
    moved = x.clone()
    moved[0, 0, 0] += 0.1
    search.value(moved, "margin")
    search.value(x, "margin")
    assert search.health.moved.tolist() == [0.5, 0]


def test_gradients_that_are_infinite_are_no_nan():
    class Steep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.sqrt().flatten(1).sum(1)
            return torch.stack((flat, -flat), 1)

    x = torch.tensor([0.5, 0, 0, 0.5]).view(1, 1, 2, 2)
    assert health(Steep(), x)["nan"] == 0


def test_health_adds_up_over_steps():
    x = torch.full((2, 1, 2, 2), 0.5)
    found = PGD(steps=5, random_start=False).run(Quantised(), x, torch.tensor([0, 1]), Linf(0.1))
    assert found.health.steps.tolist() == [5, 1]  # the second is wrong from the start
    assert found.health.zero.tolist() == [5, 1]
    assert found.health.dead.tolist() == [5, 1]


# ---- chunks


def test_join_puts_chunks_in_order():
    model = Ridge(0.6, 0.05)
    x, y = pixel(0.5, 0.55, 0.2), torch.zeros(3, dtype=torch.int64)
    parts = [FGSM().run(model, x[i : i + 1], y[i : i + 1], Linf(0.1)) for i in range(3)]
    whole = FGSM().run(model, x, y, Linf(0.1))
    joined = join(iter(parts), 3)
    assert isinstance(joined, Found)
    torch.testing.assert_close(joined.x_adv, whole.x_adv)
    torch.testing.assert_close(joined.score, whole.score)
    assert torch.equal(joined.success, whole.success)
    assert torch.equal(joined.health.steps, whole.health.steps)


# ---- gradients through what the model sees instead


def test_through_gives_the_candidates_gradient_of_what_the_model_sees():
    """The model sees x / 2: margin 1 - ((x / 2 - .3) / .1)^2, whose slope in x is -100 (x / 2 - .3)."""
    search = problem(Ridge(0.3, 0.1), pixel(0.5, 0.4, 0.45))
    values, grads = search.value_and_grad(pixel(0.4, 0.35, 0.3), "margin", through=lambda seen: seen / 2)
    torch.testing.assert_close(values, torch.tensor([1 - 1.0, 1 - 1.5625, 1 - 2.25]))
    torch.testing.assert_close(grads, pixel(10.0, 12.5, 15.0))


def test_what_the_model_sees_through_is_counted_but_never_judged():
    """Neither the candidate, which is wrong, nor its image, which is outside the threat, counts as tried."""
    search = problem(Ridge(0.3, 0.1), pixel(0.5, 0.5), threat=Linf(0.1))
    search.value_and_grad(pixel(0.6, 0.4), "margin", through=lambda seen: seen / 2)
    found = search.found()
    assert found.forwards.tolist() == found.backwards.tolist() == found.health.steps.tolist() == [1, 1]
    assert not found.success.any()
    assert not found.rejected.any()
    assert (found.score == -math.inf).all()
    assert torch.equal(found.x_adv, pixel(0.5, 0.5))
    assert (search.margin == -math.inf).all()
    assert not found.health.moved.any()


def test_each_sample_goes_through_a_map_of_its_own():
    seen_before: list[int] = []

    def darker(seen: Tensor) -> Tensor:
        seen_before.append(len(seen))
        return seen / len(seen_before)

    search = problem(Ridge(0.3, 0.1), pixel(0.5))
    values, grads = search.value_and_grad(pixel(0.4), "margin", samples=2, through=darker)
    torch.testing.assert_close(values, torch.tensor([1 - (1.0 + 1.0) / 2]))  # sees .4, then .2
    torch.testing.assert_close(grads, pixel((-20.0 + 20.0 / 2) / 2))
    assert search.found().forwards.tolist() == search.found().backwards.tolist() == [2]


def test_finished_images_do_not_go_through():
    sizes: list[int] = []

    def watched(seen: Tensor) -> Tensor:
        sizes.append(len(seen))
        return seen

    search = problem(Ridge(0.6, 0.05), pixel(0.5, 0.5, 0.5), batch=10)
    search.show(pixel(0.6, 0.5, 0.52))
    _, grads = search.value_and_grad(pixel(0.61, 0.54, 0.53), "margin", through=watched)
    assert sizes == [2]
    assert grads[0] == 0
    assert search.found().forwards.tolist() == [1, 2, 2]


def test_for_training_a_pass_through_leaves_the_last_candidate_alone():
    search = problem(Ridge(0.6, 0.05), pixel(0.5), judged=False)
    search.show(pixel(0.55))
    _, grads = search.value_and_grad(pixel(0.4), "margin", through=lambda seen: seen + 0.1)
    assert grads > 0
    torch.testing.assert_close(search.best, pixel(0.55))
