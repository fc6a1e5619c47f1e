"""Which class a targeted attack aims at."""

import pytest
import torch

from steelman.errors import UsageError
from steelman.targets import choose_targets, described


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["random", "least-likely", "next"])
@pytest.mark.parametrize("classes", [2, 3, 11])
def test_a_target_is_a_class_and_never_the_label(kind, classes):
    logits = torch.randn(200, classes, generator=seeded())
    y = torch.arange(200) % classes
    target = choose_targets(kind, logits, y, seeded(1))
    assert target.dtype == torch.int64
    assert ((target >= 0) & (target < classes) & (target != y)).all()
    if classes == 2:
        assert torch.equal(target, 1 - y)


def test_random_targets_are_uniform_over_the_other_classes():
    """3,000 draws a class: each of 9 others about 333 times, standard deviation 17."""
    y = torch.arange(10).repeat(3000)
    target = choose_targets("random", torch.zeros(len(y), 10), y, seeded())
    counts = torch.bincount(10 * y + target, minlength=100).view(10, 10)
    assert (counts.diagonal() == 0).all()
    others = counts[~torch.eye(10, dtype=torch.bool)].float()
    assert ((others - 3000 / 9).abs() < 5 * 17.3).all()
    chi_square = ((others - 3000 / 9) ** 2 / (3000 / 9)).sum()
    assert 30 < chi_square < 140  # 80 degrees of freedom


def test_random_targets_depend_on_the_generator_and_not_on_the_model():
    y = torch.arange(40) % 7
    first, second = (choose_targets("random", torch.randn(40, 7, generator=seeded(s)), y, seeded(3)) for s in (0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, choose_targets("random", torch.zeros(40, 7), y, seeded(4)))


def test_the_least_likely_class_has_the_lowest_logit_of_the_others():
    logits = torch.tensor([[0.0, 1, 2], [2, 1, 0], [-5, 0, 1], [3, -torch.inf, 1], [torch.nan, torch.nan, torch.nan]])
    y = torch.tensor([2, 2, 0, 0, 0])
    assert choose_targets("least-likely", logits, y, seeded()).tolist()[:4] == [0, 1, 1, 2]  # the model rules 1 out
    assert choose_targets("least-likely", logits, y, seeded())[4] != 0


def test_the_next_class_follows_the_label():
    assert choose_targets("next", torch.zeros(3, 3), torch.tensor([0, 1, 2]), seeded()).tolist() == [1, 2, 0]


def test_labels_of_any_whole_number_type_are_taken():
    assert choose_targets("next", torch.zeros(2, 3), torch.tensor([0, 2], dtype=torch.int32), seeded()).tolist() == [
        1,
        0,
    ]


def test_an_unknown_kind_is_answered_with_the_choices():
    words = (
        r"unknown target 'nxt'\. Did you mean next\? Possible: least-likely, next, random\. Or the number of a class"
    )
    with pytest.raises(UsageError, match=words):
        choose_targets("nxt", torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), seeded())


def test_targets_have_words():
    assert described(3) == "class 3"
    assert described("least-likely") == "the least likely class"
