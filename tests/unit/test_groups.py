"""Groups of perturbations against the original's numbers, and training on the worst of them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steelman.defences.worst_group import WorstGroup
from steelman.errors import UsageError
from steelman.spec import catalogue, parse
from steelman.threats import Linf
from steelman.threats.groups import HELD_OUT, ORIGINAL, Groups
from steelman.threats.perturbations import drawn, keyed, normal
from steelman.threats.perturbations.geometry import Blur, Elastic, Rotation, Translation
from steelman.threats.perturbations.lines import Lines
from steelman.threats.perturbations.pixels import AbsoluteNoise, Compression, Contrast, Fog, Identity, Removal


def pictures(num: int = 4, seed: int = 0, side: int = 28) -> torch.Tensor:
    """Digits-like: black with a bright block somewhere."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(num, 1, side, side)
    x[:, :, 6:20, 8:20] = torch.rand(num, 1, 14, 12, generator=generator)
    return x


def one(perturbation, x, seed: int = 0) -> torch.Tensor:
    return Groups((perturbation,), seed=seed).apply(0, x)


class TestLines:
    def test_the_defaults_are_the_originals_rows_and_columns(self):
        vertical, horizontal = (ORIGINAL[number].pattern(28, 28) for number in (0, 1))
        assert horizontal[:, 0].nonzero().flatten().tolist() == [0, 4, 9, 14, 18, 22, 27]
        starts = [0, 6, 13, 20, 26]
        assert vertical[0].nonzero().flatten().tolist() == sorted([*starts, *(start + 1 for start in starts)])
        assert vertical.mean() == pytest.approx(10 / 28)  # 35.7 % of the pixels
        assert horizontal.mean() == pytest.approx(0.25)

    def test_a_turn_by_90_degrees_is_a_transposed_pattern(self):
        for count, width in ((5, 2.0), (7, 1.0), (3, 1.5)):
            flat, upright = (Lines(angle, count, width).pattern(28, 28) for angle in (0.0, 90.0))
            torch.testing.assert_close(upright, flat.T, atol=1e-6, rtol=0)

    def test_a_single_line_through_the_middle_covers_its_length_times_its_width(self):
        for angle in (0.0, 20.0, 45.0, 80.0):
            steepest = max(abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle))))
            assert Lines(angle, 1, 2.5).pattern(60, 60).mean() == pytest.approx(2.5 / 60 / steepest, rel=0.05)

    def test_a_whole_phase_is_the_pattern_shifted_by_a_line(self):
        pattern = Lines(0.0, 7, 1.0, phase=0.5).pattern(28, 28)[:, 0]
        assert (pattern > 0).sum() in (7, 8)
        assert not torch.equal(pattern, Lines(0.0, 7, 1.0).pattern(28, 28)[:, 0])

    def test_strength_is_added_and_cut(self):
        x = pictures()
        changed = one(Lines(strength=0.6), x)
        torch.testing.assert_close(changed, (x + 0.6 * Lines().pattern(28, 28)).clamp(0, 1))


class TestPixels:
    def test_noise_has_the_mean_of_a_half_normal(self):
        noise = one(AbsoluteNoise(0.05), torch.zeros(8, 1, 28, 28))
        assert noise.mean() == pytest.approx(0.05 * (2 / torch.pi) ** 0.5, rel=0.05)
        assert (noise >= 0).all()

    def test_removal_blackens_a_contiguous_run_of_30_percent_of_the_bright_pixels(self):
        x = pictures(seed=3)
        changed = one(Removal(), x)
        for before, after in zip(x.flatten(1), changed.flatten(1), strict=True):
            bright = (before > 0.3).nonzero().flatten()
            gone = (after[bright] == 0).nonzero().flatten()
            assert len(gone) == int(0.3 * len(bright))
            assert (gone.diff() == 1).all()
            others = torch.ones_like(before, dtype=torch.bool)
            others[bright[gone]] = False
            assert torch.equal(before[others], after[others])

    def test_removal_of_a_black_image_and_of_everything(self):
        assert torch.equal(one(Removal(), torch.zeros(1, 1, 5, 5)), torch.zeros(1, 1, 5, 5))
        assert (one(Removal(share=1.0), torch.ones(1, 1, 5, 5)) == 0).all()

    def test_contrast_keeps_the_mean_and_fog_of_strength_0_the_image(self):
        x = pictures()
        torch.testing.assert_close(one(Contrast(0.3), x).mean((1, 2, 3)), x.mean((1, 2, 3)))
        assert torch.equal(one(Fog(0.0), x), x)
        assert one(Fog(1.0), x).flatten(1).amax(1) == pytest.approx(1)


class TestGeometry:
    def test_a_blur_keeps_the_sum_of_what_is_far_from_the_edge(self):
        x = pictures()
        torch.testing.assert_close(one(Blur(1.0), x).sum((1, 2, 3)), x.sum((1, 2, 3)), rtol=1e-4, atol=0)

    def test_whole_pixels_of_translation_are_a_shift(self):
        x = pictures()
        for before, after in zip(x, one(Translation(3.0), x), strict=True):
            shifts = [before.roll((a, b), (1, 2)) for a in (-3, 3) for b in (-3, 3)]
            assert min(float((after - shift).abs().max()) for shift in shifts) < 1e-4

    def test_a_turn_by_90_degrees_turns_the_image(self):
        x = pictures()
        for before, after in zip(x, one(Rotation(90.0), x), strict=True):
            turned = [before.rot90(k, (1, 2)) for k in (1, 3)]
            assert min(float((after - turn).abs().max()) for turn in turned) < 1e-3

    def test_elastic_distortion_of_nearly_nothing_is_the_image(self):
        x = pictures()
        torch.testing.assert_close(one(Elastic(alpha=1e-6), x), x, atol=1e-4, rtol=0)
        assert (one(Elastic(), x) - x).abs().max() > 0.1


class TestGroups:
    def test_every_perturbation_gives_pixels_of_the_same_shape(self):
        x = pictures()
        candidates = Groups(ORIGINAL + HELD_OUT).candidates(x)
        assert candidates.shape == (12, *x.shape)
        assert candidates.min() >= 0
        assert candidates.max() <= 1
        assert torch.equal(candidates[4], x)

    def test_every_perturbation_of_the_catalogue_is_in_one_of_the_two_lists(self):
        known = {type(member).__name__ for member in ORIGINAL + HELD_OUT}
        assert known == set(catalogue("perturbation"))
        assert {type(member).__name__ for member in HELD_OUT} == {
            name for name, cls in catalogue("perturbation").items() if cls.held_out
        }

    def test_what_is_fixed_depends_on_the_image_and_the_seed_only(self):
        x, groups = pictures(6), Groups(ORIGINAL + HELD_OUT, seed=5)
        whole = groups.candidates(x)
        torch.testing.assert_close(groups.candidates(x[2:4]), whole[:, 2:4], atol=1e-6, rtol=0)
        noise = 2
        assert not torch.equal(Groups(seed=6).apply(noise, x), whole[noise])
        assert not torch.equal(whole[noise, 0] - x[0], whole[noise, 1] - x[1])

    def test_what_is_drawn_anew_differs_and_follows_the_generator(self, generator):
        x, groups = pictures(), Groups(fixed=False)
        first, second = groups.apply(2, x, generator), groups.apply(2, x, generator)
        assert not torch.equal(first, second)
        assert torch.equal(first, groups.apply(2, x, torch.Generator().manual_seed(0)))

    def test_it_contains_its_candidates_and_nothing_else(self):
        x, groups = pictures(), Groups()
        for candidate in groups.candidates(x):
            assert groups.contains(candidate, x).all()
        assert not groups.contains((x + 0.1).clamp(0, 1), x).any()

    def test_its_repr_is_its_name(self):
        groups = Groups((Lines(30.0, phase=0.25), Compression(5), Identity()), fixed=False, seed=2)
        assert parse(repr(groups), "threat") == groups
        assert parse("Groups", "threat") == Groups()

    def test_uniform_numbers_are_uniform_and_normal_ones_normal(self, generator):
        x = pictures(50)
        for draw in (keyed(x, 1), drawn(x, generator)):
            uniform = draw(400)
            assert uniform.min() > 0
            assert uniform.max() < 1
            assert uniform.mean() == pytest.approx(0.5, abs=0.01)
            assert uniform.std() == pytest.approx(12**-0.5, abs=0.01)
            assert normal(uniform).std() == pytest.approx(1, abs=0.02)
            assert abs(torch.corrcoef(torch.stack((uniform[:, :-1].flatten(), uniform[:, 1:].flatten())))[0, 1]) < 0.03

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: Groups(()), "at least one perturbation"),
            (lambda: Groups(seed=-1), "seed is -1"),
            (lambda: Groups(seed=2**63), "seed is 9223372036854775808"),
            (lambda: Lines(count=0), "at least one line"),
            (lambda: Lines(strength=float("nan")), "finite numbers"),
            (lambda: AbsoluteNoise(-1.0), "standard deviation"),
            (lambda: Removal(share=1.5), "share of the bright pixels"),
            (lambda: Contrast(2.0), "a factor from 0"),
            (lambda: Fog(-0.1), "a strength from 0"),
            (lambda: Compression(0), "JPEG quality"),
            (lambda: Blur(0.0), "sigma above 0"),
            (lambda: one(Compression(), torch.zeros(1, 2, 8, 8)), "images of 2 channels"),
            (lambda: Groups(fixed=False).candidates(pictures()), "Give a generator"),
            (lambda: Groups(fixed=False).contains(pictures(), pictures()), "draws anew"),
            (lambda: WorstGroup(Linf(0.1)), r"the threat is Linf\(0\.1\)"),
        ],
    )
    def test_what_cannot_be_is_refused(self, make, words):
        with pytest.raises(UsageError, match=words):
            make()


class TestWorstGroup:
    def test_the_loss_is_the_largest_of_the_groups_for_each_image(self, generator):
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
        x, y = pictures(5), torch.tensor([0, 1, 2, 0, 1])
        objective = WorstGroup()
        losses = torch.stack([F.cross_entropy(model(part), y, reduction="none") for part in Groups().candidates(x)])
        loss = objective(model, x, y, progress=0.0, generator=generator)
        torch.testing.assert_close(loss, losses.amax(0).mean())
        loss.backward()
        assert model[1].weight.grad is not None

    def test_the_models_mode_is_as_before(self, generator):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 3)).train()
        model[1].eval()
        WorstGroup().images(model, pictures(), torch.tensor([0, 1, 2, 0]), generator=generator)
        assert [module.training for module in model] == [True, False, True]
