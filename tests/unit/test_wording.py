"""Numbers in sentences."""

import pytest

from steelman.stats import Share
from steelman.wording import p_text, percent, sentences, share_text


def test_a_share_comes_with_its_interval_and_n() -> None:
    """45 of 60: 62.1 to 85.3 %, by R's binom.test(45, 60)."""
    assert share_text(Share.counted(45, 60).to_json()) == "75.0 % [62.1, 85.3] of 60"
    assert share_text(Share.counted(45, 60).to_json(), 2) == "75.00 % [62.14, 85.28] of 60"


def test_where_there_was_no_case_there_is_no_number() -> None:
    assert share_text(Share.counted(0, 0).to_json()) == "none of 0"
    assert percent(None) == "none"


@pytest.mark.parametrize(
    ("p", "words"), [(0.0, "p < 0.0001"), (9.9e-5, "p < 0.0001"), (0.00022, "p = 0.00022"), (1.0, "p = 1")]
)
def test_small_p_values_are_bounded(p: float, words: str) -> None:
    assert p_text(p) == words


def test_notes_are_sentences_on_a_page():
    assert sentences(("it was trained on val", "Two images were left out.")) == (
        "It was trained on val.",
        "Two images were left out.",
    )
