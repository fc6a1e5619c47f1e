"""steelman: break, harden and understand image classifiers.

The names below are imported on first use, so that `import steelman` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steelman.attacks.fgsm import FGSM
    from steelman.attacks.noise import Noise
    from steelman.attacks.pgd import PGD
    from steelman.attacks.strongest import Strongest
    from steelman.data import Data
    from steelman.defences.adversarial import Adversarial
    from steelman.errors import SteelmanError
    from steelman.evaluate import Outcome, strike
    from steelman.fitting import fit
    from steelman.loading import load
    from steelman.recipe import Recipe
    from steelman.spec import parse
    from steelman.threats import L2, Linf
    from steelman.train import Training
    from steelman.trust import examine

__all__ = [
    "FGSM",
    "L2",
    "PGD",
    "Adversarial",
    "Data",
    "Linf",
    "Noise",
    "Outcome",
    "Recipe",
    "SteelmanError",
    "Strongest",
    "Training",
    "examine",
    "fit",
    "load",
    "parse",
    "strike",
]

_HOMES = {
    "FGSM": "attacks.fgsm",
    "L2": "threats",
    "PGD": "attacks.pgd",
    "Adversarial": "defences.adversarial",
    "Data": "data",
    "Linf": "threats",
    "Noise": "attacks.noise",
    "Outcome": "evaluate",
    "Recipe": "recipe",
    "SteelmanError": "errors",
    "Strongest": "attacks.strongest",
    "Training": "train",
    "examine": "trust",
    "fit": "fitting",
    "load": "loading",
    "parse": "spec",
    "strike": "evaluate",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("steelman")
    if name not in _HOMES:
        raise AttributeError(f"module 'steelman' has no attribute {name!r}")
    value = getattr(import_module(f"steelman.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
