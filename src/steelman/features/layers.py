"""A network's activations at one of its layers, by the layer's name."""

import contextlib
from collections.abc import Callable
from collections.abc import Generator as Yields
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steelman.engine import fill
from steelman.errors import UsageError, choices
from steelman.features import Activations
from steelman.types import Images


@dataclass(frozen=True)
class Layer:
    """`measure` gives the layer's output, flattened; with `rectified` what its ReLU is given, before it is cut at 0."""

    measure: Callable[[Images], Activations]
    rectified: bool

    def output(self, x: Images) -> Activations:
        """The layer's output, flattened."""
        measured = self.measure(x)
        return measured.clamp_min(0) if self.rectified else measured


class _Reached(Exception):
    """Ends the forward pass at the layer: what comes after it is not computed."""

    def __init__(self, output: object) -> None:
        self.output = output


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """The names of all layers, as `activations` takes them."""
    return tuple(name for name, _ in model.named_modules() if name)


@contextlib.contextmanager
def activations(model: nn.Module, layer: str, x: Images) -> Yields[Layer]:
    """Inside: the layer of this name, to be asked for its activations; the caller guards the model.

    `x` are images to try it on.

    Raises:
        UsageError: no layer of this name (all names are given), one that the forward pass does not reach or whose
            output is no tensor with a row an image, or one before any parameter.
    """
    modules = dict(model.named_modules())
    if not layer or layer not in modules:
        raise UsageError(choices("layer", layer, layer_names(model)))

    def leave(module: nn.Module, inputs: Any, output: object) -> None:  # noqa: ARG001
        raise _Reached(output)

    def leave_before(module: nn.Module, inputs: tuple[object, ...]) -> None:  # noqa: ARG001
        raise _Reached(inputs[0])

    def measure(images: Images) -> Activations:
        filled = fill(images)
        try:
            model(filled)
        except _Reached as reached:
            output = reached.output
        else:
            raise UsageError(f"the forward pass does not reach the layer {layer!r}. Choose another one.")
        if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(filled):
            raise UsageError(f"the output of layer {layer!r} is no tensor with one row an image. Choose another one.")
        return output[: len(images)].flatten(1).float()

    module = modules[layer]
    rectified = isinstance(module, nn.ReLU)
    handle = module.register_forward_pre_hook(leave_before) if rectified else module.register_forward_hook(leave)
    try:
        _forbid_unlearned(model, layer, measure, x[:1])
        yield Layer(measure, rectified)
    finally:
        handle.remove()


def _forbid_unlearned(model: nn.Module, layer: str, measure: Callable[[Images], Tensor], x: Images) -> None:
    """A layer that depends on no parameter shows the pixels, and any network's match would be the image itself."""
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in required:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            learned = measure(x).requires_grad
    finally:
        for parameter, before in required:
            parameter.requires_grad_(before)
    if not learned:
        raise UsageError(
            f"the layer {layer!r} comes before any parameter: it has learned nothing, and matching it gives back the "
            f"image. Choose a later one: {', '.join(layer_names(model))}."
        )
