"""What a training's page and its lines say of a guard."""

import pytest
from scipy.stats import binomtest

from steelman.cli.pages import guard_words, training_lines, training_page
from steelman.page import Lines

CALM = {"epoch": 1, "val_accuracy": 0.9, "train_loss": 0.5, "one_step": 0.8, "robust": 0.75, "rollbacks": []}
SAVED = {
    **CALM,
    "epoch": 2,
    "rollbacks": [{"step": 7, "one_step": 0.9, "robust": 0.1, "objective": "NFGSM(Linf(0.1))"}],
}
FACTS = {
    "run": "runs/a",
    "spec": "Training()",
    "command": "steelman train",
    "natural": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 50},
    "epochs": 2,
    "best_epoch": 2,
    "stopped_early": False,
    "weights_epoch": 2,
    "notes": [],
}
ABOUT = {"architecture": "FastCNN()", "shape": [1, 28, 28], "classes": ["a", "b", "c"]}


def test_a_guard_that_had_nothing_to_do_says_what_it_saw():
    words = guard_words([CALM], 10)
    assert words.startswith(
        "The guard saw no collapse; at the end, on val images, 80.0 % hold against one step, 75.0 % against"
    )


def test_a_rollback_is_told_with_its_epoch_and_what_training_went_on_with():
    words = guard_words([CALM, SAVED], 10)
    assert words.startswith("The guard rolled training back once, in epoch 2, and went on with NFGSM(Linf(0.1));")
    assert "2 times, in epoch 2, 3," in guard_words([CALM, SAVED, {**SAVED, "epoch": 3}], 10)


def test_a_network_that_only_guesses_is_said_to():
    assert guard_words([{**CALM, "robust": 0.1}], 10).endswith("against its probe, no more than a guess gets right.")


def test_where_the_log_says_of_how_many_images_shares_come_with_their_interval():
    """Of 500 images 80 % are 400: Clopper and Pearson's interval is that of scipy's binomtest."""
    rows = [{**row, "val_n": 1000, "watched": 500} for row in (CALM, SAVED)]
    words = guard_words(rows, 10)
    low, high = (100 * end for end in binomtest(400, 500).proportion_ci())
    assert f"on val images, 80.0 % [{low:.1f}, {high:.1f}] of 500 hold against one step" in words
    page = training_page({**FACTS, "guard": words}, rows, ABOUT)
    drawn = [item for section in page.sections for item in section.items if isinstance(item, Lines)]
    accuracy, one_step = drawn[0].panels[0].series[0], drawn[-1].panels[0].series[0]
    assert one_step.low == pytest.approx((low / 100, low / 100))
    assert accuracy.high == pytest.approx((binomtest(900, 1000).proportion_ci().high,) * 2)


def test_the_page_draws_both_shares_and_the_terminal_has_a_line():
    rows = [CALM, SAVED]
    facts = {**FACTS, "guard": guard_words(rows, 3)}
    page = training_page(facts, rows, ABOUT)
    drawn = [item for section in page.sections for item in section.items if isinstance(item, Lines)][-1]
    assert [series.y for series in drawn.panels[0].series] == [(0.8, 0.8), (0.75, 0.75)]
    assert facts["guard"] in page.findings
    assert any(line.startswith("guard    The guard rolled") for line in training_lines(facts))


def test_without_a_guard_nothing_is_said():
    rows = [{"epoch": 1, "val_accuracy": 0.9, "train_loss": 0.5}]
    facts = {**FACTS, "guard": guard_words(rows, 3)}
    assert facts["guard"] == ""
    assert len(training_lines(facts)) == 2
    assert len([item for section in training_page(facts, rows, ABOUT).sections for item in section.items]) == 3
