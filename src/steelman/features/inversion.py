"""Inversion: images that give a network the same activations as others (Mahendran & Vedaldi 2015, arXiv:1412.0035).

Robust and non-robust features made visible in this way: Ilyas et al. 2019 (arXiv:1905.02175).
"""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from steelman.engine import guarded, micro_batch, steady_allocator
from steelman.errors import UsageError
from steelman.features import Activations, Inversion, State
from steelman.features.layers import Layer, activations
from steelman.progress import Progress, silent
from steelman.types import Counts, Images, Mask, PerExample

LARGEST_GRAM = 512  # activations up to which their Gram matrix is computed
GRAM_IMAGES = 16
_TELL = 16  # rounds between two words of progress


@dataclass(frozen=True)
class Inverted:
    """The best image found for each target.

    `residual` is the L2 distance between its activations and the target, `relative` that divided by the target's
    length; where the target is 0 throughout, `relative` is 0 if it is matched and infinite if not.
    """

    x: Images
    residual: PerExample
    relative: PerExample
    gradients: Counts

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def invert(
    model: nn.Module,
    layer: str,
    x: Images,
    start: Tensor,
    method: Inversion,
    *,
    tolerance: float = 0.0,
    sample: Tensor | None = None,
    progress: Progress = silent,
) -> Inverted:
    """For each x an image with the same activations at `layer`, looked for from `start`.

    As many images as fill the processor's cache are worked on at a time; one that has converged leaves, and the next
    one takes its place. An image whose gradient is 0 (dead units, a target that is met) stays as it is.

    Args:
        model: from pixels to logits; its mode and memory layout are restored.
        layer: its name in `model.named_modules()`.
        x: images whose activations are to be matched.
        start: where the search begins, an image each.
        method: how.
        tolerance: the relative residual at which an image has converged.
        sample: images over which a method's Gram matrix is averaged; None for the first of x.
        progress: told in images.

    Raises:
        UsageError: an unknown layer, one before any parameter, starts of another shape, or a negative tolerance.
    """
    if start.shape != x.shape:
        raise UsageError(
            f"the starts have shape {tuple(start.shape)} for images of shape {tuple(x.shape)}. Give one start an image."
        )
    if not tolerance >= 0:
        raise UsageError(f"tolerance is {tolerance}. Expected a relative residual of 0 or more.")
    batch = micro_batch(model, x)
    with guarded(model), steady_allocator(), activations(model, layer, x) as named:
        with torch.no_grad():
            target = torch.cat([named.output(part) for part in x.split(batch)])
        wanted = method.scaled and target.shape[1] <= LARGEST_GRAM
        gram = mean_gram(named, (x if sample is None else sample)[:GRAM_IMAGES]) if wanted else None
        return _Pool(named, target, gram, start, method, tolerance, batch).run_all(progress)


def mean_gram(layer: Layer, x: Images) -> Float[Tensor, "f f"]:
    """The mean of J J^T over the images, J being the derivative of the layer's activations by the pixels."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        columns = layer.measure(x).sum(0)
        rows = [torch.autograd.grad(column, x, retain_graph=True)[0].flatten(1) for column in columns]
    jacobian = torch.stack(rows, dim=1)
    return (jacobian @ jacobian.transpose(1, 2)).mean(0)


def random_starts(images: Images, num: int, generator: Generator) -> Tensor:
    """`num` images drawn from these with replacement: the original's start, another random training image."""
    return images[torch.randint(len(images), (num,), generator=generator, device=images.device)]


class _Pool:
    """The images in work: each row has its own target, history and count of gradients."""

    def __init__(
        self,
        layer: Layer,
        target: Activations,
        gram: Float[Tensor, "f f"] | None,
        start: Images,
        method: Inversion,
        tolerance: float,
        batch: int,
    ) -> None:
        self.layer, self.target, self.gram, self.start, self.method = layer, target, gram, start, method
        self.goal = tolerance * target.norm(dim=1)
        self.best = start.clone()
        self.distance = torch.full_like(self.goal, torch.inf)
        self.gradients = torch.zeros(len(start), dtype=torch.int64, device=start.device)
        self.rows = torch.arange(min(batch, len(start)), device=start.device)  # which image each place works on
        self.next = len(self.rows)

    def run_all(self, progress: Progress) -> Inverted:
        """Work until every image has left."""
        x, state, rounds = self.start[self.rows], self.method.begin(self.start[self.rows]), 0
        while len(self.rows):
            distance, fall, grad = self._evaluate(x)
            self._remember(x, distance)
            count = self.gradients[self.rows]
            self.gradients[self.rows] = count + 1
            stepped = self.method.step(x, fall, grad, count, state)
            done = self._done(distance, grad, count) | self.method.stop(distance, state)
            x = self._replace(stepped, done, state) if done.any() else stepped
            rounds += 1
            if rounds % _TELL == 0 or not len(self.rows):
                progress(self.next - len(self.rows), len(self.start), "matching activations")
        return Inverted(self.best, self.distance, _relative(self.distance, self.target), self.gradients)

    def _evaluate(self, x: Images) -> tuple[PerExample, PerExample, Images]:
        """The distance to the target, r^T M r, and J^T M r."""
        x, target = x.detach().requires_grad_(), self.target[self.rows]
        with torch.enable_grad():
            measured = self.layer.measure(x)
            shown = measured.detach().clamp_min(0) if self.layer.rectified else measured.detach()
            distance = (shown - target).norm(dim=1)
            residual = shown - target
            if self.layer.rectified and self.method.two_sided:
                residual = torch.where(measured > 0, residual, 0)  # the gradient of a dead unit
            elif (
                self.layer.rectified
            ):  # a unit that should be at work is pulled there; a dead one that should be is not
                residual = torch.where(target > 0, measured.detach() - target, shown)
            weights = self.method.weigh(residual, self.gram)
            (grad,) = torch.autograd.grad(measured, x, weights)
        return distance, (residual * weights).sum(1), grad

    def _remember(self, x: Images, distance: PerExample) -> None:
        better = distance < self.distance[self.rows]  # False for NaN
        rows = self.rows[better]
        self.distance[rows], self.best[rows] = distance[better], x[better]

    def _done(self, distance: PerExample, grad: Images, count: Counts) -> Mask:
        flat = grad.flatten(1)
        stuck = ~flat.isfinite().all(1) | (flat == 0).all(1)
        return (distance <= self.goal[self.rows]) | stuck | (count + 1 >= self.method.most)

    def _replace(self, x: Tensor, done: Mask, state: State) -> Tensor:
        """Give the places of those that are done to the next images, and close the places that are left over."""
        places = done.nonzero().squeeze(1)
        num = min(len(places), len(self.start) - self.next)
        filled, self.rows = places[:num], self.rows.clone()
        self.rows[filled] = torch.arange(self.next, self.next + num, device=self.rows.device)
        self.next += num
        x = x.clone()
        x[filled] = self.start[self.rows[filled]]
        fresh = self.method.begin(x[filled])
        for name, values in state.items():
            values[filled] = fresh[name]
        if num < len(places):
            stays = torch.ones_like(done)
            stays[places[num:]] = False
            self.rows, x = self.rows[stays], x[stays]
            for name, values in state.items():
                state[name] = values[stays]
        return x


def _relative(residual: PerExample, target: Activations) -> PerExample:
    length = target.norm(dim=1)
    unmatched = torch.where(residual > 0, torch.inf, 0.0).to(residual)
    return torch.where(length > 0, residual / length.clamp_min(torch.finfo(length.dtype).tiny), unmatched)
