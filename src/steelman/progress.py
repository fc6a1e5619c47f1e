"""The progress argument of everything that takes longer than two seconds.

Library code calls `progress(done, total, words)`; it never prints. The command line turns the calls into a bar with
the time left, or into plain lines when the output is piped.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable


@runtime_checkable  # for the checks at run time in tests
class Progress(Protocol):
    """Told after each piece of work: how much is done of how much, and what is being done."""

    def __call__(self, done: int, total: int, words: str, /) -> None:
        """Report `done` of `total` pieces and what they are."""
        ...


def silent(done: int, total: int, words: str) -> None:
    """Says nothing: the default."""


def between(progress: Progress, start: int, end: int, total: int, words: str) -> Progress:
    """The progress of work that takes a whole from `start` to `end` of `total`; it never goes back."""
    told = start

    def report(done: int, of: int, inner: str) -> None:
        nonlocal told
        told = max(told, start + (end - start) * done // max(of, 1))
        progress(told, total, joined(words, inner))

    return report


def counted(progress: Progress, total: int, *, first: int = 0) -> Iterator[int]:
    """So many numbers from the first on, each told."""
    for done in range(total):
        progress(done, total, "")
        yield first + done


class Stages:
    """Progress of work in stages, one after the other: each gets its share of one whole, which never goes back."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.begun = progress, total, 0

    def stage(self, words: str, weight: int = 1) -> Progress:
        """The progress of the next stage, which is `weight` of the `total` pieces; what comes before it is done."""
        start, self.begun = self.begun, self.begun + weight
        return between(self.progress, start * _FINE, self.begun * _FINE, self.total * _FINE, words)


def joined(*words: str) -> str:
    """Words about the whole and about a stage of it; those that are empty are left out."""
    return ": ".join(filter(None, words))


_FINE = 1000  # steps a piece
