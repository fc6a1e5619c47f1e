"""What a budgeted search missed: the full ensemble on a random sample of the images that it gave up."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from steelman.attacks.found import Found, improved

GROUP = 1 / 16  # of the images that are left, attacked at once after a miss
Full: TypeAlias = Callable[[Tensor, str], Found]  # what the ensemble finds on these rows, and words for its progress


def audit(found: Found, held: Tensor, size: int, full: Full, generator: Generator) -> Found:
    """What was found, with what the full ensemble finds on samples of `size` of the `held` rows.

    Should it break one, it goes on with those that hold by the smallest margins, a sixteenth of what is left at a time
    and no fewer than a sample, until it breaks none of such a group; a fresh sample of the others, twice as large, must
    then agree, or the next groups follow. `audited` marks all that it attacked, `sampled` the last sample, none of
    which it broke unless no other images are left: it bounds how many of the others would break.
    """
    words = "audit"
    while size and len(held):
        held = held[torch.randperm(len(held), generator=generator, device=held.device)]
        sample, held = held[:size], held[size:]
        found, broke = _again(found, sample, full, words)
        found.sampled.zero_()
        found.sampled[sample] = True
        if not broke:
            break
        held = held[found.score[held].argsort(descending=True, stable=True)]
        group = max(size, math.ceil(GROUP * len(held)))
        while broke and len(held):
            found, broke = _again(found, held[:group], full, "the next likeliest, for the audit broke one")
            held = held[group:]
        size, words = 2 * size, "a fresh audit"
    return found


def _again(found: Found, rows: Tensor, full: Full, words: str) -> tuple[Found, bool]:
    more = full(rows, words)
    return improved(found, rows, more), bool(more.success.any())
