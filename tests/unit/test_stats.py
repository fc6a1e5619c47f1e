"""Intervals and paired tests against published values and the binomial distribution itself."""

import inspect
import math

import pytest
import torch
from scipy import stats

from steelman.errors import UsageError
from steelman.stats import Share, clopper_pearson, mcnemar, mean_sd, most_left


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0, 0.3085),  # tables of Clopper & Pearson's interval: 1 - 0.025^(1/10)
        (1, 10, 0.0025, 0.4450),
        (5, 10, 0.1871, 0.8129),
        (10, 10, 0.6915, 1),
        (81, 263, 0.2527, 0.3676),  # Newcombe 1998, table I, method 5
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_the_interval_has_the_published_ends(hits, n, low, high):
    assert clopper_pearson(hits, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("hits", "n"), [(3, 17), (9281, 10000), (1, 2), (499, 500)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_at_each_end_the_binomial_tail_is_half_of_what_is_left(hits, n, confidence):
    """The definition of the interval, through the binomial distribution rather than the beta quantiles."""
    low, high = clopper_pearson(hits, n, confidence)
    assert low < hits / n < high
    assert stats.binom.sf(hits - 1, n, low) == pytest.approx((1 - confidence) / 2, rel=1e-6)
    assert stats.binom.cdf(hits, n, high) == pytest.approx((1 - confidence) / 2, rel=1e-6)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Exactly summed over all outcomes, also for rare events, where a normal approximation covers far less."""
    for truth in (0.01, 0.05, 0.5, 0.93):
        n = 40
        ends = [clopper_pearson(hits, n) for hits in range(n + 1)]
        inside = [low <= truth <= high for low, high in ends]
        covered = sum(stats.binom.pmf(hits, n, truth) for hits in range(n + 1) if inside[hits])
        assert covered >= 0.95


@pytest.mark.parametrize(("hits", "n"), [(3, 17), (0, 5), (5, 5), (250, 1000)])
def test_counting_the_failures_mirrors_the_interval(hits, n):
    low, high = clopper_pearson(hits, n)
    assert clopper_pearson(n - hits, n) == pytest.approx((1 - high, 1 - low))


def test_more_cases_and_less_confidence_narrow_the_interval():
    widths = [high - low for low, high in (clopper_pearson(n // 2, n) for n in (10, 100, 1000, 10000))]
    assert widths == sorted(widths, reverse=True)
    narrow, wide = clopper_pearson(7, 20, 0.5), clopper_pearson(7, 20, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_without_any_case_anything_is_possible():
    assert clopper_pearson(0, 0) == (0, 1)
    share = Share.counted(0, 0)
    assert math.isnan(share.value)
    assert (share.low, share.high, share.n) == (0, 1, 0)
    assert share.to_json() == {"value": None, "low": 0, "high": 1, "n": 0}


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (1, 0), (0, -1)])
def test_impossible_counts_are_refused(hits, n):
    with pytest.raises(UsageError, match=rf"{hits} hits in {n} cases\. Expected 0 <= hits <= n"):
        clopper_pearson(hits, n)


def test_a_share_counts_a_mask():
    share = Share.of(torch.tensor([True, False, True, True]))
    assert (share.value, share.n) == (0.75, 4)
    assert (share.low, share.high) == clopper_pearson(3, 4)
    assert share.to_json() == {"value": 0.75, "low": share.low, "high": share.high, "n": 4}
    assert str(share) == "75.00 % [19.41, 99.37], n = 4"


@pytest.mark.parametrize(("sampled", "others"), [(20, 7), (20, 20), (10, 50), (5, 200), (3, 0)])
def test_what_is_left_is_bounded_as_often_as_it_says(sampled, others):
    """Whatever the number of hits, the bound holds in 95 % of all samples, by scipy's hypergeometric law."""
    whole = sampled + others
    bounds = [most_left(hits, sampled, others) for hits in range(sampled + 1)]
    for total in range(whole + 1):
        law = stats.hypergeom(whole, total, sampled)
        false = sum(law.pmf(hits) for hits in range(min(sampled, total) + 1) if total - hits > bounds[hits])
        assert false <= 0.05 + 1e-9
    assert all(0 <= bound <= others for bound in bounds)
    assert [bound + hits for hits, bound in enumerate(bounds)] == sorted(
        bound + hits for hits, bound in enumerate(bounds)
    )


def test_of_many_others_the_bound_is_the_binomial_one():
    assert most_left(0, 20, 100_000) / 100_000 == pytest.approx(1 - 0.05 ** (1 / 20), rel=1e-3)
    assert most_left(2, 60, 100_000) / 100_000 == pytest.approx(clopper_pearson(2, 60, 0.9)[1], rel=1e-2)


def test_more_hits_than_were_sampled_are_refused():
    with pytest.raises(UsageError, match=r"4 hits in a sample of 3\. Expected 0 <= hits <= 3"):
        most_left(4, 3, 10)


def test_mcnemar_is_a_fair_coin_on_the_discordant_cases():
    first = torch.tensor([True] * 8 + [False] * 1 + [True] * 50 + [False] * 3)
    second = torch.tensor([False] * 8 + [True] * 1 + [True] * 50 + [False] * 3)
    paired = mcnemar(first, second)
    assert (paired.only_first, paired.only_second, paired.n) == (8, 1, 62)
    assert paired.p == pytest.approx(2 * (1 + 9) / 2**9)  # P(0 or 1 heads of 9), two-sided
    swapped = mcnemar(second, first)
    assert (swapped.only_first, swapped.only_second) == (1, 8)
    assert swapped.p == pytest.approx(paired.p)


def test_mcnemar_of_equal_answers_sees_no_difference():
    mask = torch.tensor([True, False, True])
    paired = mcnemar(mask, mask)
    assert (paired.only_first, paired.only_second, paired.n, paired.p) == (0, 0, 3, 1.0)


def test_mcnemar_needs_the_same_cases():
    with pytest.raises(UsageError, match=r"paired test of 3 against 2 cases\. Judge both on the same images"):
        inspect.unwrap(mcnemar)(torch.ones(3, dtype=torch.bool), torch.ones(2, dtype=torch.bool))


def test_mean_and_sample_deviation():
    assert mean_sd([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]) == pytest.approx((5, math.sqrt(32 / 7)))
    mean, deviation = mean_sd([0.5])
    assert mean == 0.5
    assert math.isnan(deviation)


def test_a_share_of_nothing_comes_back_and_says_so():
    none = Share.counted(0, 0)
    again = Share.from_json(none.to_json())
    assert str(again) == str(none) == "none, n = 0"
    assert Share.from_json(Share.counted(3, 4).to_json()) == Share.counted(3, 4)
