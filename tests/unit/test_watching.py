"""Wrong types are found in the first calls of a function, and again in a later test however often it was called."""

from collections.abc import Callable

import jaxtyping
import pytest
import torch
from beartype import beartype

from steelman.threats import Linf
from tests.watching import EVERY, FIRST, INNER, begin_test, jaxtyped, types_unchecked

WRONG = "not 3"


@pytest.fixture
def double() -> Callable[[object], object]:
    def double(number: int) -> int:
        return number * 2

    return jaxtyped(double, typechecker=beartype)


def test_the_package_is_watched() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="project"):
        Linf(0.1).project(torch.zeros(2, 3), torch.zeros(2, 3))  # no images


def test_the_first_calls_are_checked_then_one_of_many(double: Callable[[object], object]) -> None:
    for _ in range(FIRST):
        with pytest.raises(jaxtyping.TypeCheckError):
            double(WRONG)
    for _ in range(FIRST + 1, EVERY):
        assert double(WRONG) == WRONG * 2
    with pytest.raises(jaxtyping.TypeCheckError):
        double(WRONG)


def test_a_new_test_begins_anew(double: Callable[[object], object]) -> None:
    for _ in range(FIRST + 1):
        double(3)
    assert double(WRONG) == WRONG * 2
    begin_test()
    with pytest.raises(jaxtyping.TypeCheckError):
        double(WRONG)


def test_functions_made_again_and_again_are_checked_the_first_times() -> None:
    def made() -> Callable[[object], object]:
        def double(number: int) -> int:
            return number * 2

        return jaxtyped(double, typechecker=beartype)

    for one in [made() for _ in range(INNER)]:
        with pytest.raises(jaxtyping.TypeCheckError):
            one(WRONG)
    assert made()(WRONG) == WRONG * 2


def test_without_types_nothing_is_checked(double: Callable[[object], object]) -> None:
    with types_unchecked():
        assert double(WRONG) == WRONG * 2
    with pytest.raises(jaxtyping.TypeCheckError):
        double(WRONG)
