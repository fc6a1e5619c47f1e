"""The audit: what it must find, what it may leave, and which of its images speak for the rest."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steelman.attacks.audit import audit
from steelman.attacks.found import Found
from steelman.attacks.problem import Problem
from steelman.threats import Linf
from tests.nets import net, seeded, task

NUM = 640


class Ensemble:
    """Breaks the rows that it is told to, and remembers what it was asked."""

    def __init__(self, like: Found, breakable: Tensor) -> None:
        self.like, self.breakable, self.asked = like, breakable, []

    def __call__(self, rows: Tensor, words: str) -> Found:
        self.asked.append(rows.tolist())
        parts = {name: getattr(self.like, name)[rows] for name in ("x_adv", "distance", "score")}
        counts = {name: torch.ones_like(rows) for name in ("forwards", "backwards", "rejected")}
        no = torch.zeros(len(rows), dtype=torch.bool)
        health = Problem(net(), self.like.x_adv[rows], rows * 0, Linf(0.1), generator=seeded(), batch=9).found().health
        success = torch.isin(rows, self.breakable)
        return replace(
            self.like, **parts, **counts, success=success, proven=no, audited=no, sampled=no.clone(), health=health
        )


def gave_up() -> Found:
    """A search that broke nothing; row 0 holds by the smallest margin, the last row by the largest."""
    x, y = task(net(), n=20, wrong=0)
    x, y = x.repeat(NUM // 20, 1, 1, 1), y.repeat(NUM // 20)
    found = Problem(net(), x, y, Linf(0.1), generator=seeded(), batch=9).found()
    return replace(found, score=-torch.arange(float(NUM)))


def test_without_a_miss_one_sample_is_all():
    found = gave_up()
    full = Ensemble(found, torch.tensor([], dtype=torch.long))
    after = audit(found, torch.arange(NUM), 20, full, seeded())
    assert [len(rows) for rows in full.asked] == [20]
    assert after.audited.nonzero().squeeze(1).tolist() == sorted(full.asked[0])
    assert torch.equal(after.sampled, after.audited)


def test_a_miss_sends_the_next_likeliest_until_a_group_holds_and_then_a_fresh_sample_twice_as_large():
    """All of the 100 smallest margins can be broken: a sample of 20 of 640 meets one, groups of 39 find them all."""
    found = gave_up()
    full = Ensemble(found, torch.arange(100))
    after = audit(found, torch.arange(NUM), 20, full, seeded())
    assert after.success.nonzero().squeeze(1).tolist() == list(range(100))
    assert [len(rows) for rows in full.asked] == [20, 39, 39, 39, 39, 40]
    groups = [row for rows in full.asked[1:5] for row in rows]
    assert groups == sorted(groups)
    assert groups[:3] == [row for row in range(9) if row not in full.asked[0]][:3]
    assert after.sampled.nonzero().squeeze(1).tolist() == sorted(full.asked[-1])
    assert after.audited.sum() == sum(map(len, full.asked))  # none twice
    assert after.forwards.sum() == after.audited.sum()


def test_what_breaks_beyond_a_group_that_holds_is_found_by_fresh_samples():
    """Breaks without any order by margins: it does not stop as long as samples meet some."""
    found = gave_up()
    full = Ensemble(found, torch.arange(0, NUM, 2))
    after = audit(found, torch.arange(NUM), 20, full, seeded())
    assert after.audited.all()
    assert torch.equal(after.success, torch.arange(NUM) % 2 == 0)


@pytest.mark.parametrize(("held", "size"), [(0, 20), (NUM, 0)])
def test_nothing_to_audit_or_no_audit_asked_for_asks_nothing(held, size):
    found = gave_up()
    full = Ensemble(found, torch.arange(NUM))
    after = audit(found, torch.arange(held), size, full, seeded())
    assert full.asked == []
    assert not after.audited.any()


def test_only_the_rows_that_held_are_asked():
    found = gave_up()
    full = Ensemble(found, torch.arange(NUM))
    audit(found, torch.arange(5, NUM, 3), 4, full, seeded())
    asked = [row for rows in full.asked for row in rows]
    assert sorted(asked) == list(range(5, NUM, 3))
