"""Optimality, against areas of step functions computed by hand."""

import math

import numpy as np
import pytest
import torch

from steelman.errors import UsageError
from steelman.optimality import envelope, largest, optimality

INF, NAN = math.inf, math.nan


def t(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_two_attacks_by_hand():
    """Clean 3/4. Areas up to 3: (1+2+3)/4 and (2+1+3)/4, envelope (1+1+3)/4; an attack without success has 9/4."""
    first, second, nothing = t(1, 2, INF, NAN), t(2, 1, 3, NAN), t(INF, INF, INF, NAN)
    assert largest([first, second, nothing]) == 3
    assert envelope([first, second]).tolist() == [1, 1, 3, 0]
    expected = 1 - (1.5 - 1.25) / (2.25 - 1.25)
    assert optimality([first, second, nothing]) == pytest.approx([expected, expected, 0.0])


def test_the_envelope_itself_has_optimality_one():
    distances = [t(1, 2, 4), t(2, 1, 4), t(1, 1, 4)]
    assert optimality(distances) == pytest.approx([1 - 1 / 6, 1 - 1 / 6, 1.0])  # areas 7/3, 7/3, 2 of at most 4


def test_distances_beyond_the_largest_of_the_envelope_count_as_that():
    assert optimality([t(1, 2), t(50, 2)]) == pytest.approx([1.0, 0.0])
    assert optimality([t(1, 2), t(INF, 2)]) == pytest.approx([1.0, 0.0])


def test_images_that_nobody_breaks_change_nothing():
    few = [t(1, 3), t(2, 3)]
    many = [t(1, 3, INF, INF), t(2, 3, INF, INF)]
    assert optimality(many) == pytest.approx(optimality(few))


def test_it_is_the_formula_with_areas_by_numerical_integration():
    random = np.random.default_rng(0)
    known = random.exponential(1.0, (3, 50)).astype("float32")
    known[:, :5] = np.nan
    known[1, 5:9] = np.inf
    best = np.nan_to_num(known, nan=0.0, posinf=np.inf).min(0)
    radii = np.linspace(0, best.max(), 200_001)

    def area(distance):
        steps = np.searchsorted(np.sort(np.nan_to_num(distance, nan=0.0, posinf=1e9)), radii, side="right")
        return np.trapezoid(1 - steps / 50, radii)

    expected = [1 - (area(one) - area(best)) / (0.9 * best.max() - area(best)) for one in known]
    assert optimality(list(torch.from_numpy(known))) == pytest.approx(expected, abs=1e-4)


def test_it_does_not_depend_on_the_unit_of_distance():
    distances = [t(0.1, 0.2, 0.7), t(0.3, 0.1, 0.5)]
    assert optimality([8 * one for one in distances]) == pytest.approx(optimality(distances))


@pytest.mark.parametrize(
    "distances",
    [[t(INF, NAN), t(INF, NAN)], [t(NAN), t(NAN)], [t(2), t(INF)], [t(2, 2), t(2, INF)]],
    ids=["nothing broken", "nothing right", "one image", "one distance"],
)
def test_where_the_formula_has_no_value_it_is_nan(distances):
    assert all(math.isnan(value) for value in optimality(distances))


def test_no_attacks_or_other_images_are_refused():
    with pytest.raises(UsageError, match=r"attacks with none images\. Expected one attack or more on the same images"):
        optimality([])
    with pytest.raises(UsageError, match=r"attacks with 1, 2 images\. Expected one attack or more on the same images"):
        optimality([t(1), t(1, 2)])
    with pytest.raises(UsageError, match="attacks with 0 images"):
        envelope([t()])
    with pytest.raises(UsageError, match="on different images: some are wrong from the start for one attack only"):
        largest([t(1, NAN), t(1, 2)])


def test_a_success_at_the_image_itself_is_the_nearest_there_is():
    """As on a random model. Areas .5 and 1 of 2 at d_max 1: best 0.5, an attack that finds nothing 1."""
    assert optimality([t(0, 1, NAN), t(1, 1, NAN)]) == pytest.approx([1.0, 0.0])
