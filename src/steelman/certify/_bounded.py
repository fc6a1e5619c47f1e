"""What the certifiers by bounds share: images in micro-batches, and an error that names the layer without a rule."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, nn

from steelman.bounds.box import Unknown
from steelman.certify import Certifier
from steelman.engine import guarded, micro_batch
from steelman.errors import UsageError
from steelman.progress import Progress, silent
from steelman.threats import Ball
from steelman.types import Images, Labels, Mask, PerExample


@dataclass(frozen=True, repr=False)
class Bounded(Certifier):
    """A certifier that bounds each image's margin from below; above 0 is proven."""

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: Ball,
        *,
        generator: Generator | None = None,  # noqa: ARG002
        progress: Progress = silent,
    ) -> Mask:
        return self.margins(model, x, y, threat, progress=progress) > 0

    def margins(
        self, model: nn.Module, x: Images, y: Labels, threat: Ball, *, progress: Progress = silent
    ) -> PerExample:
        """A lower bound of the label's logit minus the best other one, over all that the threat allows.

        Raises:
            UsageError: a layer or a threat that this certifier does not know.
        """
        return in_parts(self, model, x, y, progress, lambda x, y: self.bound(model, x, y, threat))

    def bound(self, model: nn.Module, x: Images, y: Labels, threat: Ball) -> PerExample:
        """The same for a few images, the model being guarded.

        Raises:
            Unknown: a layer or a threat without a rule.
        """
        raise NotImplementedError

    def supported(self) -> str:
        """The layers that this certifier knows, in words."""
        raise NotImplementedError


def in_parts(
    certifier: Bounded,
    model: nn.Module,
    x: Images,
    y: Labels,
    progress: Progress,
    bound: Callable[[Images, Labels], PerExample],
    size: int | None = None,
) -> PerExample:
    """The bounds of all images, computed in micro-batches, or so many at a time, with the model guarded.

    Raises:
        UsageError: a layer or a threat that the certifier does not know.
    """
    found = x.new_zeros(len(x))
    with guarded(model):
        size = size or (micro_batch(model, x) if len(x) else 1)
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            try:
                found[part] = bound(x[part], y[part])
            except Unknown as unknown:
                raise UsageError(_explained(certifier, model, unknown)) from None
            progress(min(start + size, len(x)), len(x), f"certifying with {type(certifier).__name__}")
    return found


def _explained(certifier: Bounded, model: nn.Module, unknown: Unknown) -> str:
    names = {module: name for name, module in model.named_modules() if name}
    inside = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(unknown.__traceback__)]
    layers = [module for module in inside if isinstance(module, nn.Module) and module in names]
    where = f", in layer {names[layers[-1]]} ({type(layers[-1]).__name__})" if layers else ""
    return (
        f"{certifier!r} has no rule for {unknown}{where}. Possible: {certifier.supported()}. "
        "Change the model, or certify with Smoothing, which takes any in L2."
    )
