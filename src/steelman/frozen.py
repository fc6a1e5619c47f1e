"""Training with the first blocks of a network held as they are: their features are computed once and kept.

Frozen layers of Keras and of Yosinski et al. 2014 (arXiv:1411.1792) do not change at all: BatchNorm in them works with
its stored statistics (eval mode) and updates none.
"""

import contextlib
import tempfile
from collections.abc import Generator as Yields
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from steelman.chance import generators_of
from steelman.data import Data
from steelman.defences.standard import Standard
from steelman.engine import guarded, micro_batch
from steelman.models.cuts import divided
from steelman.recipe import Recipe
from steelman.types import Images

LARGEST = 2**31  # bytes of features that are kept in memory; more go into a temporary file, which is memory-mapped
_SLICE = 512  # images turned into floats at a time
_WIDER = 4  # batches of features to those of an attack


@dataclass(frozen=True, eq=False)
class Features(Data):
    """What frozen blocks make of the images: `values` (float32, n c h w) stand in for the pixels."""

    values: Tensor = field(default_factory=lambda: torch.empty(0, 1, 1, 1))

    def pixels(self, index: Tensor | slice = slice(None)) -> Images:
        """The features of these images."""
        return self.values[index]


def features(model: nn.Module, blocks: int, data: Data) -> Features:
    """The output of the model's first blocks, in eval mode, for every image."""
    prefix, _ = divided(model, blocks)
    device = next(model.parameters()).device
    with guarded(prefix), torch.no_grad():
        # without gradients no activation outlives its layer: larger batches, fewer calls, still in the cache
        batch = min(_SLICE, _WIDER * micro_batch(prefix, data.pixels(slice(0, 1)).to(device)))
        values: Tensor | None = None
        for start in range(0, len(data), _SLICE):
            pixels = data.pixels(slice(start, start + _SLICE)).to(device)
            part = torch.cat([prefix(few) for few in pixels.split(batch)])
            part = part if part.ndim == 4 else part.flatten(1)[:, :, None, None]
            if values is None:
                values = _room((len(data), *part.shape[1:]), device)
            values[start : start + len(part)] = part
    assert values is not None
    return Features(data.images, data.labels, data.classes, data.name, data.notes, values)


def caches(model: nn.Module, recipe: Recipe) -> bool:
    """Whether training needs no more of the frozen blocks than features computed once.

    Attacks and shifts need the pixels; blocks that draw noise make other features each time.
    """
    if recipe.frozen == 0 or recipe.shift or not isinstance(recipe.objective, Standard):
        return False
    return not generators_of(divided(model, recipe.frozen)[0])


def learning(model: nn.Module, recipe: Recipe) -> nn.Module:
    """What a training step runs: the whole model, or behind cached features its rest."""
    if not caches(model, recipe):
        return model
    rest = divided(model, recipe.frozen)[1]
    return nn.Sequential(nn.Flatten(), *rest) if _takes_rows(rest) else rest


@contextlib.contextmanager
def held(model: nn.Module, recipe: Recipe) -> Yields[None]:
    """Inside, the frozen blocks' parameters take no gradient; afterwards they do as before.

    Raises:
        UsageError: the model cannot be cut there.
    """
    parameters = list(divided(model, recipe.frozen)[0].parameters()) if recipe.frozen else []
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)


def set_mode(model: nn.Module, recipe: Recipe) -> None:
    """Train mode, unless the recipe says otherwise; the frozen blocks always in eval mode."""
    model.train(not recipe.eval_mode)
    if recipe.frozen:
        divided(model, recipe.frozen)[0].eval()


def _takes_rows(rest: nn.Sequential) -> bool:
    """Whether the rest begins behind a Flatten, so that it takes (n, k)."""
    first = next(module for module in rest.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    return isinstance(first, nn.Linear) and not any(isinstance(stage, nn.Flatten) for stage in rest)


def _room(shape: tuple[int, ...], device: torch.device) -> Tensor:
    size = torch.Size(shape).numel()
    if 4 * size <= LARGEST or device.type != "cpu":
        return torch.empty(shape, device=device)
    with tempfile.NamedTemporaryFile(prefix="steelman-features-") as file:  # mapped, it outlives its name
        return torch.from_file(file.name, shared=True, size=size).view(shape)
