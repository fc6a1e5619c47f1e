"""Everything that changes while a network is trained, and one file that holds all of it.

Tensors and the rest go into a single safetensors file, the rest as JSON in its header: a kill at any moment leaves a
whole checkpoint or the whole one before it, and training goes on from it bit for bit.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from steelman.defences.guarded import Guarded, Look
from steelman.errors import RunError
from steelman.runs import Run
from steelman.strict_json import json_text

FILE = "checkpoint.safetensors"

Weights = dict[str, Tensor]


@dataclass(eq=False)
class State:
    """A training at one moment: between two epochs (`order` is empty) or between two steps of one.

    Fields:
        identity: what is trained, in words; a checkpoint of something else is refused.
        good: the weights measured after the last whole epoch.
        best: those of the epoch that was best on val.
        haven: with a guard, the weights, their average and the optimiser's moments when it last found all well.
        looks: with a guard, what it saw in this epoch; `rollbacks` is how often it went back to the haven so far.
        order: the permutation of the images in this epoch.
        step: steps done in this epoch; `losses` is the sum of its images' losses, `seconds` what it took.
    """

    identity: str
    model: nn.Module
    optimizer: Optimizer
    averaged: AveragedModel | None
    generator: Generator
    good: Weights
    best: Weights
    best_epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    step: int = 0
    losses: float = 0.0
    seconds: float = 0.0
    haven: Weights = field(default_factory=dict[str, Tensor])
    looks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    rollbacks: int = 0

    @property
    def measured(self) -> nn.Module:
        """The network that is measured and kept: the average over time, where there is one."""
        return self.averaged.module if self.averaged else self.model

    def save(self, run: Run) -> None:
        """Write the checkpoint of the run.

        Raises:
            RunError: the disk is full or the directory is not writable any more.
        """
        tensors = {
            **self._moving(),
            **_under("good", self.good),
            **_under("best", self.best),
            **_under("haven", self.haven),
            "order": self.order,
            "generator": self.generator.get_state(),
            "global": torch.get_rng_state(),
        }
        device = self.device
        if device.type == "cuda":  # pragma: no cover
            tensors["cuda"] = torch.cuda.get_rng_state(device)
        rest = {name: getattr(self, name) for name in _PLAIN}
        notes = {"state": json_text({**rest, "groups": self.optimizer.state_dict()["param_groups"]})}
        run.write_tensors(FILE, tensors, metadata=notes)

    def restore(self, run: Run) -> None:
        """Become what `save` wrote; the global generator, too.

        Raises:
            RunError: a damaged file, or the checkpoint of something else.
        """
        rest = json.loads(run.read_metadata(FILE)["state"])
        if rest["identity"] != self.identity:
            raise RunError(
                f"{run.path} is the training of {rest['identity']}. This one is of {self.identity}. "
                "Give another directory, or delete that one."
            )
        tensors = run.read_tensors(FILE)
        self._move_to(tensors, rest["groups"])
        self.good, self.best, self.haven = (_beneath(name, tensors) for name in ("good", "best", "haven"))
        self.order = tensors["order"]
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["global"])
        if "cuda" in tensors:  # pragma: no cover
            torch.cuda.set_rng_state(tensors["cuda"], self.device)
        for name in _PLAIN:
            setattr(self, name, rest[name])

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.model.parameters()).device

    def reach_haven(self) -> None:
        """Remember the weights, their average and the optimiser's moments as they are now."""
        self.haven = {name: value.detach().clone() for name, value in self._moving().items()}

    def heed(self, guard: Guarded, look: Look, step: int) -> None:
        """Go back to the haven where training has collapsed, make this the haven where all is well; remember which."""
        seen: dict[str, Any] = {"step": step, **asdict(look)}
        if guard.collapsed(look):
            self._move_to(self.haven, self.optimizer.state_dict()["param_groups"])
            self.rollbacks += 1
            seen["objective"] = repr(guard.after(self.rollbacks).objective)
        elif guard.well(look):
            self.reach_haven()
        self.looks.append(seen)

    def seen(self) -> dict[str, Any]:
        """What a guard saw last in this epoch, and the looks after which training went back; nothing without one."""
        if not self.looks:
            return {}
        last, back = self.looks[-1], [look for look in self.looks if "objective" in look]
        return {key: last[key] for key in ("one_step", "robust", "watched") if key in last} | {"rollbacks": back}

    def _moving(self) -> Weights:
        """All tensors that a step of training changes."""
        return {
            **_under("model", self.model.state_dict()),
            **_under("averaged", self.averaged.state_dict() if self.averaged else {}),
            **{f"optimizer.{i}.{key}": value for i, key, value in _moments(self.optimizer.state_dict()["state"])},
        }

    def _move_to(self, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
        self.model.load_state_dict(_beneath("model", tensors))
        if self.averaged:
            self.averaged.load_state_dict(_beneath("averaged", tensors))
        self._restore_optimizer(_beneath("optimizer", tensors), groups)

    def _restore_optimizer(self, moments: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in moments.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value.clone()  # else the optimiser counts on in the snapshot
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for parameter, values in self.optimizer.state.items():
            for key, value in values.items():  # files are contiguous; fused kernels want the parameter's own layout
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    values[key] = torch.empty_like(parameter).copy_(value)


def snapshot(model: nn.Module) -> Weights:
    """A copy of the weights and buffers as they are now."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


_PLAIN = ("identity", "rows", "best_epoch", "step", "losses", "seconds", "looks", "rollbacks")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Weights:
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def _beneath(prefix: str, tensors: Mapping[str, Tensor]) -> Weights:
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def _moments(state: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[int, str, Tensor]]:
    for index, values in state.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                yield index, key, value
