"""Everything steelman raises on purpose.

SteelmanError
├── UsageError (also a ValueError)    wrong use; the command line prints its one line and exits with 2
│   ├── SpecError                     a spec string that does not parse, an unknown name or field
│   ├── PixelError                    images that are no pixels in [0, 1]: range, NaN, dtype, shape
│   ├── DataError                     a data set that is missing, truncated, corrupt, empty or wrongly labelled
│   ├── WeightsError                  weights that do not fit, or a file that may not be read
│   └── RunError                      a run directory that is locked, unwritable, full or no run
├── ThreatViolation                   an attack returned an image outside the threat's set
├── Diverged                          training met a loss that is not a number; the last good state is kept
└── Interrupted                       stopped by Ctrl-C; says how to go on

A message says what was given, what is possible and what to do next, in one line.
"""

import difflib
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path


class SteelmanError(Exception):
    """Base of all deliberate errors."""


class UsageError(SteelmanError, ValueError):
    """Wrong use by a person: the message says what was given, what is possible and what to do."""


class SpecError(UsageError):
    """A spec string that does not parse, or names something unknown."""


class PixelError(UsageError):
    """Images that are not pixels in [0, 1] of the expected shape."""


class DataError(UsageError):
    """A data set that cannot be used as it is."""


class WeightsError(UsageError):
    """Weights that do not fit the architecture, or a file that may not be read."""


class RunError(UsageError):
    """A run directory that cannot be used."""


class ThreatViolation(SteelmanError):
    """An attack returned an image that the threat does not allow."""


class Diverged(SteelmanError):
    """Training met a loss that is not a number."""


class Interrupted(SteelmanError):
    """Work was stopped by the user; what was computed is on disk."""


def choices(kind: str, given: str, possible: Iterable[str]) -> str:
    """The sentence for an unknown name: what was given, the nearest match, all that is possible."""
    names = sorted(possible)
    swapped = [name.lower() for name in names if sorted(name.lower()) == sorted(given.lower())]
    near = swapped or difflib.get_close_matches(given.lower(), [name.lower() for name in names], n=1)
    hint = next((f" Did you mean {name}?" for name in names if near and name.lower() == near[0]), "")
    return f"unknown {kind} {given!r}.{hint} Possible: {', '.join(names)}."


def check_seed(seed: int) -> None:
    """See that a seed is one that torch takes.

    Raises:
        UsageError: it is not.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed is {seed}. Expected 0 or more, and less than 2^63.")


def raised_by_strangers(error: Exception) -> str | None:
    """Which line of the user's own code, called by steelman, raised what, in one line; None where none did."""
    own, homes = str(Path(__file__).parent), sysconfig.get_paths()
    libraries = ("<", *(homes[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(own):
            return None
        if not frame.filename.startswith(libraries):
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return f"{frame.filename}:{frame.lineno}, in {frame.name}, raised {said}"
    return None
