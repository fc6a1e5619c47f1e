"""What the adapters of all peers share: the question as they get it, the model as they see it, and their quarantine."""

import contextlib
import importlib
import importlib.util
import inspect
import logging
import math
import os
import random
import sys
import warnings
from collections.abc import Callable, Mapping
from collections.abc import Generator as Yields
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelman.errors import UsageError, choices
from steelman.threats import Ball
from steelman.types import Images, Labels

_NORMS = {"inf": "Linf", "2": "L2", "1": "L1", "0": "L0"}


@dataclass(frozen=True)
class Peer:
    """What is known of one attack: its norms, how its radius and its norm are called, whether it takes targets.

    Without a `radius` it looks for the nearest success. `attribute` is its name in the library, where that is another.
    """

    norms: tuple[str, ...]
    radius: str = ""
    choice: str = ""
    targets: bool = True
    attribute: str = ""


class Watched(nn.Module):
    """The model as a peer sees it: float32 logits, no weights to disturb, every row and every gradient counted.

    The model is no submodule, so that a peer cannot change its mode or clear its gradients; one parameter of no use
    tells the device.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros((), device=device), requires_grad=False)
        self.hidden = (model,)
        self.failure: Exception | None = None
        self.forwards = self.backwards = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The logits; what the model itself raises is remembered."""
        try:
            logits: Tensor = self.hidden[0](x.float()).float()
        except Exception as error:
            self.failure = error
            raise
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, grad: Tensor) -> None:
        self.backwards += len(grad)


@dataclass(frozen=True)
class Task:
    """What a peer is asked: to attack these images within the threat, with the arguments that its call gave."""

    name: str
    peer: Peer
    given: Mapping[str, Any]
    model: Watched
    x: Images
    y: Labels
    target: Labels | None
    threat: Ball
    num_classes: int
    seed: int

    @property
    def norm(self) -> str:
        """The name of the threat's norm."""
        return type(self.threat).__name__

    @property
    def eps(self) -> float:
        """The threat's radius, or that of the whole pixel range where it has no limit."""
        return self.threat.reach(self.x)

    @property
    def labels(self) -> Labels:
        """The classes that the peer is told: the targets where there are any."""
        return self.y if self.target is None else self.target

    def arguments(self, function: Callable[..., Any], **offered: Any) -> dict[str, Any]:
        """What the call gave and, of what is offered, all that the function takes and the call left open.

        Raises:
            UsageError: the call gave something that the function does not take.
        """
        known = set(inspect.signature(function).parameters) - {"self"}
        for name in self.given:
            if name not in known:
                raise UsageError(choices(f"field of {self.name}", name, known))
        return {name: value for name, value in offered.items() if name in known} | dict(self.given)


@dataclass(frozen=True)
class Library:
    """A library of attacks: the pip package that gives it, what is known of its attacks, and how one is run."""

    package: str
    peers: Mapping[str, Peer]
    run: Callable[[Task], Any]


def norm_of(value: object) -> str:
    """The norm that an argument such as 2, inf, 'Linf' or 'l2' names; the argument itself where it names none."""
    text = str(value).lower().removeprefix("l").removesuffix(".0")
    return _NORMS.get(text, str(value))


def as_number(norm: str) -> int | float:
    """The p of a norm; p = 1 and 2 as whole numbers, which some peers insist on."""
    return math.inf if norm == "Linf" else int(norm[1:])


def imported(module: str, package: str) -> ModuleType:
    """A peer's module.

    Raises:
        UsageError: it is not installed, or something that it needs is not.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{module} cannot be imported ({error}). Install it: pip install {package}.") from error


@contextlib.contextmanager
def stand_in(module: str) -> Yields[None]:
    """Inside, an empty module stands for one that a peer imports without need, where it is not installed."""
    if module in sys.modules or importlib.util.find_spec(module):
        yield
        return
    sys.modules[module] = ModuleType(module)
    try:
        yield
    finally:
        del sys.modules[module]


@contextlib.contextmanager
def quarantine(seed: int) -> Yields[None]:
    """Inside: nothing is printed, logged or warned; the global generators start from the seed. Then as before."""
    numbers, python, level = np.random.get_state(), random.getstate(), logging.root.manager.disable
    with (
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        torch.enable_grad(),
        warnings.catch_warnings(),
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        torch.manual_seed(seed)
        np.random.seed(seed)  # peers draw from the global generators
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numbers)
            random.setstate(python)
            logging.disable(level)
