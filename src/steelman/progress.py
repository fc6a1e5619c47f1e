"""The progress argument of everything that takes longer than two seconds.

Library code calls `progress(done, total, words)`; it never prints. The command line turns the calls into a bar with
the time left, or into plain lines when the output is piped.
"""

from typing import Protocol, runtime_checkable


@runtime_checkable  # for the checks at run time in tests
class Progress(Protocol):
    """Told after each piece of work: how much is done of how much, and what is being done."""

    def __call__(self, done: int, total: int, words: str) -> None:
        """Report `done` of `total` pieces and what they are."""
        ...


def silent(done: int, total: int, words: str) -> None:
    """Says nothing: the default."""
