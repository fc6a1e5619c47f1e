"""The exception tree and the sentence for unknown names."""

import inspect

import pytest

from steelman import errors
from steelman.errors import SteelmanError, UsageError, choices

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_one_except_catches_all(cls):
    assert issubclass(cls, SteelmanError)
    assert cls.__name__ in errors.__doc__


@pytest.mark.parametrize("name", ["SpecError", "PixelError", "DataError", "WeightsError", "RunError"])
def test_wrong_use_is_a_value_error(name):
    assert issubclass(getattr(errors, name), UsageError)
    assert issubclass(getattr(errors, name), ValueError)


@pytest.mark.parametrize("name", ["ThreatViolation", "Diverged", "Interrupted"])
def test_what_is_not_the_users_mistake_is_none(name):
    assert not issubclass(getattr(errors, name), ValueError)


def test_an_unknown_name_gets_the_nearest_and_all_possible_ones():
    words = choices("attack", "pdg", ["PGD", "FGSM"])
    assert words == "unknown attack 'pdg'. Did you mean PGD? Possible: FGSM, PGD."
    assert choices("attack", "xyzzy", ["PGD", "FGSM"]) == "unknown attack 'xyzzy'. Possible: FGSM, PGD."
    assert "\n" not in choices("attack", "two\nlines", ["PGD"])
