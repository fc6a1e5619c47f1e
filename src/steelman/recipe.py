"""How a classifier is trained, as a value: objective, optimiser, schedule, what is kept."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from steelman.defences import Objective
from steelman.defences.standard import Standard
from steelman.engine import multiplies_bfloat16
from steelman.errors import UsageError
from steelman.models import Architecture
from steelman.schedules import Schedule
from steelman.spec import Spec


@dataclass(frozen=True, repr=False)
class Recipe(Spec):
    """Everything of a training but the model, the data and the seed.

    Fields:
        lr: the highest learning rate; `schedule` says how it changes from step to step.
        momentum: of sgd only.
        patience: stop when this many epochs in a row were no better on val than the best one.
        ema: average the weights over time with this decay per step; the average is what is measured and kept.
        keep: whether `weights.safetensors` holds the epoch that is best on val, or the last one.
        eval_mode: train in eval mode: no dropout, BatchNorm as a learned scale and shift only.
        fresh_optimizer: forget the optimiser's moments after each epoch.
        drop_last: leave out the images that fill no whole batch, other ones in each epoch.
        clip_gradient: the largest L2 norm of the whole gradient.
        precision: in what convolutions and linear layers multiply while training. "bfloat16" is faster where the
            processor multiplies it (AVX-512 BF16, AMX, GPUs), slower elsewhere; "auto" takes it where it is faster.
            Weights, steps and all that is measured stay float32.
        frozen: how many leading blocks stay as they are, their BatchNorm in eval mode (see steelman.models.cuts).
        with_val: train on the images of val as well, when everything has been chosen without them; the val accuracy of
            an epoch is then of images that were seen.
        shift: each image is moved by up to so many pixels each way, at random and anew in every epoch, black behind it.

    Raises:
        UsageError: a number out of its range.
    """

    objective: Objective = Standard()  # noqa: RUF009 (frozen)
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    lr: float = 1e-3
    epochs: int = 10
    batch_size: int = 64
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    momentum: float = 0.9
    patience: int | None = None
    ema: float | None = None
    keep: Literal["best", "last"] = "best"
    eval_mode: bool = False
    fresh_optimizer: bool = False
    drop_last: bool = False
    clip_gradient: float | None = None
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    frozen: int = 0
    shift: int = 0
    with_val: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _choice("optimizer", self.optimizer, ("adam", "adamw", "sgd", "rmsprop"))
        _choice("schedule", self.schedule, ("constant", "step", "one-cycle", "cosine"))
        _choice("keep", self.keep, ("best", "last"))
        _choice("precision", self.precision, ("float32", "bfloat16", "auto"))
        self._require("lr", "a positive number such as 1e-3", holds=0 < self.lr < math.inf)
        self._require("epochs", "1 or more", holds=self.epochs >= 1)
        self._require("batch_size", "1 or more", holds=self.batch_size >= 1)
        self._require("weight_decay", "0 or more", holds=0 <= self.weight_decay < math.inf)
        self._require("momentum", "0 <= momentum < 1", holds=0 <= self.momentum < 1)
        self._require("patience", "None, or 1 epoch or more", holds=self.patience is None or self.patience >= 1)
        self._require("ema", "None, or a decay with 0 <= ema < 1", holds=self.ema is None or 0 <= self.ema < 1)
        self._require("frozen", "0 blocks or more", holds=self.frozen >= 0)
        self._require("shift", "0 pixels or more", holds=self.shift >= 0)
        if self.with_val and (self.keep != "last" or self.patience is not None):
            raise UsageError(
                "with_val=True leaves no images to choose an epoch by. Expected keep='last' and no patience with it."
            )
        clip = self.clip_gradient
        self._require("clip_gradient", "None, or a positive number", holds=clip is None or 0 < clip < math.inf)
        if self.optimizer != "sgd" and self.momentum != type(self).momentum:
            raise UsageError(
                f"momentum={self.momentum} was given for {self.optimizer}. Expected optimizer='sgd' with it."
            )

    def in_bfloat16(self, device: torch.device) -> bool:
        """Whether products in training are computed in bfloat16 on this device."""
        faster = torch.cuda.is_bf16_supported() if device.type == "cuda" else multiplies_bfloat16()
        return self.precision == "bfloat16" or (self.precision == "auto" and faster)

    def _require(self, name: str, expected: str, *, holds: bool) -> None:
        if not holds:
            raise UsageError(f"{name} is {getattr(self, name)}. Expected {expected}.")


def default_recipe(architecture: Architecture, **changes: Any) -> Recipe:
    """The recipe that an architecture carries, with these fields changed.

    Raises:
        UsageError: a number out of its range.
    """
    return Recipe(**{**architecture.recipe, **changes})


def _choice(name: str, given: str, possible: tuple[str, ...]) -> None:
    if given not in possible:
        raise UsageError(f"{name} is {given!r}. Possible: {', '.join(possible)}.")
