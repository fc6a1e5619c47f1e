"""The study `resistance`: its scores against hand-made cases, closed forms and scikit-learn."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from steelman.studies.resistance import pages, scores
from steelman.studies.resistance.done import Words


def _flags(text: str) -> np.ndarray:
    return np.array([letter == "w" for letter in text])


def _values(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=float)


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two scores with many ties, the second one better, and which of 300 images are wrong."""
    generator = np.random.default_rng(0)
    wrong = generator.random(300) < 0.2
    first = np.round(generator.normal(size=300) + wrong, 1)
    second = np.round(generator.normal(size=300) + 3 * wrong, 1)
    return first, second, wrong


class TestAuroc:
    def test_as_scikit_learn_with_ties(self, drawn) -> None:
        first, second, wrong = drawn
        for score in (first, second):
            assert scores.auroc(score, wrong)["value"] == pytest.approx(roc_auc_score(wrong, score), abs=1e-12)
            assert scores.average_precision(score, wrong) == pytest.approx(average_precision_score(wrong, score))

    def test_by_counting_pairs(self) -> None:
        found = scores.auroc(_values(3, 1, 2, 2), _flags("wrwr"))
        assert found["value"] == (1 + 1 + 1 + 0.5) / 4  # pairs of a wrong and a right image

    @pytest.mark.parametrize(("num_wrong", "num_right", "apart"), [(3, 60, 1.5), (10, 100, 2.0), (40, 40, 0.5)])
    def test_its_interval_holds_the_area_in_about_95_of_100_draws(self, num_wrong, num_right, apart) -> None:
        """Normal scores, whose area is known; few wrong images as well."""
        random, area = np.random.default_rng(0), stats.norm.cdf(apart / np.sqrt(2))
        wrong = np.arange(num_wrong + num_right) < num_wrong
        found = [scores.auroc(random.normal(size=len(wrong)) + apart * wrong, wrong) for _ in range(1000)]
        assert 0.925 < np.mean([one["low"] <= area <= one["high"] for one in found]) < 0.99

    def test_its_interval_is_near_that_of_delong_where_there_are_many(self) -> None:
        random, wrong = np.random.default_rng(1), np.arange(3000) < 1000
        score = random.normal(size=3000) + wrong
        pairs = score[wrong][:, None] > score[~wrong]
        deviation = np.sqrt(sum(part.var(ddof=1) / len(part) for part in (pairs.mean(1), pairs.mean(0))))
        found = scores.auroc(score, wrong)
        assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.05)

    def test_no_interval_is_a_point(self) -> None:
        """All pairs in order: the lower end solves 1 - A = 1.96 standard errors at A (Newcombe 2006)."""
        found = scores.auroc(_values(*range(9, -1, -1)), _flags("wwrrrrrrrr"))
        low = found["low"]
        share = 1 + 4 * ((1 - low) / (2 - low) + low / (1 + low))
        assert 1 - low == pytest.approx(1.959964 * np.sqrt(low * (1 - low) * share / 16), rel=1e-6)
        assert found["high"] == 1

    def test_of_one_kind_of_image_there_is_none(self) -> None:
        assert scores.auroc(_values(1, 2), _flags("rr")) is None
        assert scores.auroc(_values(1, 2), _flags("ww")) is None
        assert scores.average_precision(_values(1, 2), _flags("rr")) is None
        assert scores.compared(_values(1, 2), _values(2, 1), _flags("rr")) == 1

    def test_a_monotone_map_changes_nothing(self, drawn) -> None:
        first, _, wrong = drawn
        assert scores.auroc(np.exp(first), wrong) == scores.auroc(first, wrong)
        assert scores.compared(first, np.exp(first), wrong) == 1

    def test_a_better_score_is_told_from_a_worse_one(self, drawn) -> None:
        first, second, wrong = drawn
        assert scores.compared(first, second, wrong) < 1e-6
        assert scores.compared(first, second, wrong) == pytest.approx(scores.compared(second, first, wrong))


class TestRisk:
    def test_a_perfect_score_errs_only_where_it_must(self) -> None:
        """With the e wrong ones last, the risk at coverage c is max(0, 1 - (1 - e) / c)."""
        wrong = np.arange(100) >= 90
        coverage, risk = scores.risk_coverage(np.arange(100.0), wrong)
        assert np.allclose(risk, np.maximum(0, 1 - 0.9 / coverage))

    def test_a_score_without_information_has_the_same_risk_everywhere(self) -> None:
        coverage, risk = scores.risk_coverage(np.zeros(40), np.arange(40) < 10)
        assert coverage[-1] == 1
        assert np.allclose(risk, 0.25)
        assert scores.area_under_risk(np.zeros(40), np.arange(40) < 10) == pytest.approx(0.25)

    def test_at_full_coverage_it_is_the_error_rate(self, drawn) -> None:
        first, _, wrong = drawn
        assert scores.risk_coverage(first, wrong)[1][-1] == pytest.approx(wrong.mean())


class TestThresholds:
    def test_flagging_by_hand(self) -> None:
        suspicion, wrong = _values(0, 1, 2, 3, 4), _flags("rrwrw")
        assert scores.flagged(suspicion, wrong).errors == 1  # above 1: one right image too many; above 3: one missed
        assert scores.flagged(suspicion, wrong).threshold == 3  # the higher one of equals

    def test_never_flagging_is_always_possible(self, drawn) -> None:
        first, _, wrong = drawn
        assert scores.flagged(-first, wrong).errors <= wrong.sum()

    def test_the_u_curve_by_hand(self) -> None:
        suspicion = _values(1, 2, 3)
        right, other = np.array([True, True, False]), np.array([False, False, True])
        thresholds, errors = scores.second_guess(suspicion, right, other)
        assert errors.tolist() == [2, 1, 0, 1]  # all, two, one, no image gets its second guess
        assert thresholds[1:].tolist() == [1, 2, 3]
        assert scores.least_errors(suspicion, right, other) == scores.Cut(2.0, 0)
        for threshold, count in zip(thresholds, errors, strict=True):
            assert scores.errors_at(suspicion, right, other, threshold) == count

    def test_a_measure_is_chosen_by_val_and_believed_by_a_test(self) -> None:
        def row(measure: str, val: float, chosen: int, p: float) -> dict:
            shares = {"nothing": 13, "chosen": chosen, "best": 9}
            row = {key: {"value": errors / 359, "n": 359} for key, errors in shares.items()}
            return {"measure": measure, "val": val, "p": p, **row}

        def said(*rows: dict) -> str:
            (words,) = pages._thresholds(Words([], [], [], [], list(rows)))
            return words

        assert "of a, both chosen on val, is not told" in said(row("a", 0.02, 12, 1.0), row("b", 0.03, 2, 1e-4))
        assert "corrects more than it spoils: 2 errors instead of 13" in said(row("b", 0.02, 2, 1e-4))
        assert "gains nothing" in said(row("b", 0.02, 25, 1e-4))

    def test_ends_of_the_u_curve_are_the_two_classifiers(self, drawn) -> None:
        first, second, wrong = drawn
        other = second > 1
        _, errors = scores.second_guess(first, ~wrong, other)
        assert errors[0] == (~other).sum()
        assert errors[-1] == wrong.sum()


def test_conf2_is_a_half_at_k_and_one_at_infinity() -> None:
    found = scores.conf2(_values(0, 0.28, 0.84, np.inf), 0.28)
    assert found.tolist() == pytest.approx([0, 0.5, 0.75, 1])


def test_thinning_keeps_the_ends() -> None:
    x, y = scores.thinned(np.arange(1000.0), np.arange(1000.0) ** 2, 11)
    assert len(x) == 11
    assert (x[0], x[-1], y[-1]) == (0, 999, 999**2)
