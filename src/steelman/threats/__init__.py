"""Threats: what an attacker may do to an image. Balls of a norm around it, cut by the pixel range [0, 1].

A threat is the question and an argument of every attack; the attack is only the method.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from steelman.errors import UsageError
from steelman.spec import Spec
from steelman.types import Images, Mask, PerExample

TOLERANCE = 1e-6  # rounding of float32 pixels, and of an eps above 1 in units of eps: what is further out is outside


@dataclass(frozen=True, repr=False)
class Threat(Spec):
    """A set of allowed images around each image."""

    def contains(self, x_adv: Images, x: Images, tolerance: float = TOLERANCE) -> Mask:
        """Whether each candidate is allowed, up to rounding."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Ball(Threat):
    """All images within `eps` of the original in one norm and, unless `clip=False`, with pixels in [0, 1].

    Raises:
        UsageError: eps is negative or NaN.
    """

    eps: float
    clip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.isnan(self.eps) or self.eps < 0:
            raise UsageError(
                f"{type(self).__name__}: eps is {self.eps}. Expected a radius >= 0 in pixel units of [0, 1], "
                "such as 0.3 or 8/255."
            )

    def at(self, eps: float) -> "Ball":
        """The same ball with another radius."""
        return replace(self, eps=eps)

    def contains(self, x_adv: Images, x: Images, tolerance: float = TOLERANCE) -> Mask:
        """Whether each candidate is within eps and, if clipped, in the pixel range; NaN is outside."""
        return self.allows(x_adv, self.distance(x_adv, x), tolerance)

    def allows(self, x_adv: Images, distance: PerExample, tolerance: float = TOLERANCE) -> Mask:
        """The same of candidates whose distance is known."""
        inside = distance <= self.eps + tolerance * max(1.0, self.eps, self.terms(x_adv))
        if self.clip:
            flat = x_adv.flatten(1)  # each end by itself: torch's aminmax takes five times as long
            inside &= (flat.amin(1) >= -tolerance) & (flat.amax(1) <= 1 + tolerance)
        return inside

    def reach(self, x: Images) -> float:
        """How far a search can go: eps, but with clip, or without any limit, no more than the whole pixel range."""
        channels, height, width = x.shape[1:]
        largest = self.largest((channels, height, width))
        return min(self.eps, largest) if self.clip or math.isinf(self.eps) else self.eps

    def terms(self, x: Images) -> float:  # noqa: ARG002
        """How many pixels' rounding adds up in a distance, in units of the tolerance."""
        return 1.0

    def distance(self, x_adv: Images, x: Images) -> PerExample:
        """The norm of x_adv - x."""
        return self.length(x_adv - x)

    def length(self, change: Tensor) -> PerExample:
        """The norm of each change."""
        raise NotImplementedError

    def project(self, x_adv: Images, x: Images, radius: PerExample | None = None) -> Images:
        """The nearest allowed image (Euclidean distance); `radius` stands for eps, image by image."""
        raise NotImplementedError

    def ascend(self, x_adv: Images, grad: Images, size: float | PerExample) -> Images:
        """A step of length `size` from x_adv along which `grad` rises most; pixels may leave their range."""
        return x_adv + _column(size, grad) * self.steepest(grad)

    def steepest(self, grad: Images) -> Images:
        """The direction of unit norm along which `grad` rises most; 0 where the gradient is 0 or NaN.

        Infinite entries count as the largest float.
        """
        raise NotImplementedError

    def dual(self, grad: Images) -> PerExample:
        """The dual norm of a gradient: the rise per unit of radius along `steepest`."""
        raise NotImplementedError

    def sample(self, x: Images, generator: Generator) -> Images:
        """A random allowed image: uniform in the ball of radius `reach`, then cut by the pixel range."""
        raise NotImplementedError

    def largest(self, shape: tuple[int, int, int]) -> float:
        """The norm of the whole pixel range: an eps beyond it allows every image."""
        raise NotImplementedError


def as_ball(threat: Threat) -> Ball:
    """The same threat, seen to be a ball.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(threat, Ball):
        raise UsageError(f"the threat is {threat!r}. Expected a ball such as Linf(0.3) or L2(1.5).")
    return threat


@dataclass(frozen=True, repr=False)
class Linf(Ball):
    """No pixel changes by more than eps (Goodfellow et al. 2015, arXiv:1412.6572)."""

    def length(self, change: Tensor) -> PerExample:  # noqa: D102
        return change.flatten(1).abs().amax(1)

    def project(self, x_adv: Images, x: Images, radius: PerExample | None = None) -> Images:  # noqa: D102
        if radius is None:
            moved = (x_adv - x).clamp_(-self.eps, self.eps).add_(x)
        else:
            limit = radius.to(x.dtype).view(-1, 1, 1, 1)
            moved = torch.minimum(torch.maximum(x_adv - x, -limit), limit).add_(x)
        return moved.clamp_(0, 1) if self.clip else moved

    def steepest(self, grad: Images) -> Images:  # noqa: D102
        return grad.sign()  # torch's sign of NaN is 0

    def dual(self, grad: Images) -> PerExample:  # noqa: D102
        return grad.flatten(1).abs().sum(1)

    def sample(self, x: Images, generator: Generator) -> Images:  # noqa: D102
        noise = torch.empty_like(x).uniform_(-1, 1, generator=generator)
        return self.project(x + self.reach(x) * noise, x)

    def largest(self, shape: tuple[int, int, int]) -> float:  # noqa: ARG002, D102
        return 1.0


@dataclass(frozen=True, repr=False)
class L2(Ball):
    """The Euclidean length of the change is at most eps (Szegedy et al. 2014, arXiv:1312.6199)."""

    def length(self, change: Tensor) -> PerExample:  # noqa: D102
        return torch.linalg.vector_norm(change.flatten(1), dim=1)

    def project(self, x_adv: Images, x: Images, radius: PerExample | None = None) -> Images:
        """The nearest image of ball and pixel range together, which is clip(x + t (x_adv - x)) for one t in [0, 1].

        Clipping after rescaling would waste radius on pixels that cannot move; here t is found exactly by Newton's
        method on the piecewise quadratic |clip(x + t d) - x|^2 = eps^2, which ends after finitely many steps.
        """
        change = (x_adv - x).flatten(1)
        flat = x.flatten(1)
        room = room_towards(change, flat) if self.clip else change.abs()
        eps = torch.full_like(change[:, 0], self.eps) if radius is None else radius
        scale = _radius_scale(change.abs(), room, eps, clip=self.clip)
        moved = x + (change * scale[:, None]).view_as(x)
        return moved.clamp_(0, 1) if self.clip else moved

    def steepest(self, grad: Images) -> Images:  # noqa: D102
        return _unit(grad)

    def dual(self, grad: Images) -> PerExample:  # noqa: D102
        flat = grad.flatten(1)
        largest = flat.abs().amax(1)  # divided by it, no square is too large or too small for a float
        length = torch.linalg.vector_norm(flat / largest.clamp_min(torch.finfo(flat.dtype).tiny)[:, None], dim=1)
        return largest.clamp_min(torch.finfo(flat.dtype).tiny) * length

    def sample(self, x: Images, generator: Generator) -> Images:  # noqa: D102
        direction = _unit(torch.empty_like(x).normal_(generator=generator))
        radius = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device) ** (1 / math.prod(x.shape[1:]))
        return self.project(x + self.reach(x) * radius.view(-1, 1, 1, 1) * direction, x)

    def largest(self, shape: tuple[int, int, int]) -> float:  # noqa: D102
        return math.sqrt(math.prod(shape))


@dataclass(frozen=True, repr=False)
class L1(Ball):
    """The sum of all changes is at most eps (Chen et al. 2018, EAD, arXiv:1709.04114)."""

    def length(self, change: Tensor) -> PerExample:  # noqa: D102
        return change.flatten(1).abs().sum(1)

    def terms(self, x: Images) -> float:
        """Half a float's last digit, 3e-8 below 1, for every pixel."""
        return x[0].numel() * 0.03 if len(x) else 1.0

    def project(self, x_adv: Images, x: Images, radius: PerExample | None = None) -> Images:
        """The nearest image of ball and pixel range together (Croce & Hein 2021, arXiv:2103.01208, proposition 2.1).

        It changes pixel i by min(max(|d_i| - t, 0), room_i) for the one t >= 0 at which the changes sum to eps.
        """
        change, flat = (x_adv - x).flatten(1), x.flatten(1)
        room = room_towards(change, flat) if self.clip else change.abs()
        eps = torch.full_like(change[:, 0], self.eps) if radius is None else radius
        size = _shrunk(change.abs(), room, eps)
        moved = x + (change.sign() * size).view_as(x)
        return moved.clamp_(0, 1) if self.clip else moved

    def ascend(self, x_adv: Images, grad: Images, size: float | PerExample) -> Images:
        """Spend `size` on the pixels of largest gradient, each as far as its range allows: a few, not all.

        Without a range the whole step goes to one pixel, which is the steepest there is.
        """
        if not self.clip:
            return x_adv + _column(size, grad) * self.steepest(grad)
        slope, flat = grad.flatten(1).nan_to_num(0), x_adv.flatten(1)
        order = slope.abs().argsort(dim=1, descending=True, stable=True)
        room = room_towards(slope, flat).gather(1, order)
        before = room.cumsum(1) - room
        budget = torch.as_tensor(size, dtype=flat.dtype, device=flat.device).view(-1, 1)
        spent = torch.minimum(room, (budget - before).clamp_min(0))
        step = torch.zeros_like(flat).scatter_(1, order, spent)
        return x_adv + (slope.sign() * step).view_as(x_adv)

    def steepest(self, grad: Images) -> Images:
        """The sign at the pixel of largest gradient, 0 elsewhere; the first one where several are equal."""
        flat = grad.flatten(1).nan_to_num(0)
        where = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter_(1, where, flat.gather(1, where).sign()).view_as(grad)

    def dual(self, grad: Images) -> PerExample:  # noqa: D102
        return grad.flatten(1).abs().amax(1)

    def sample(self, x: Images, generator: Generator) -> Images:  # noqa: D102
        size = torch.empty_like(x).exponential_(generator=generator)
        sign = torch.empty_like(x).uniform_(-1, 1, generator=generator).sign()
        radius = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device) ** (1 / math.prod(x.shape[1:]))
        scale = self.reach(x) * radius / size.flatten(1).sum(1)
        return self.project(x + _column(scale, x) * sign * size, x)

    def largest(self, shape: tuple[int, int, int]) -> float:  # noqa: D102
        return float(math.prod(shape))


@dataclass(frozen=True, repr=False)
class L0(Ball):
    """At most eps values change, each channel of a pixel counted by itself (Croce & Hein 2019, arXiv:1909.05040).

    Raises:
        UsageError: without the pixel range, in which any change fits into one value.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.clip:
            raise UsageError(
                f"L0({self.eps:g}, clip=False): without a pixel range one value can grow until every image is broken. "
                "Write L0 without clip=False, or choose L1."
            )

    def length(self, change: Tensor) -> PerExample:  # noqa: D102
        return (change != 0).flatten(1).sum(1).to(change.dtype)

    def project(self, x_adv: Images, x: Images, radius: PerExample | None = None) -> Images:
        """Keep the changes, cut to the pixel range, that bring the image nearest to x_adv; undo the others."""
        change, moved = (x_adv - x).flatten(1), x_adv.clamp(0, 1).flatten(1)
        gain = change.square() - (x_adv.flatten(1) - moved).square()
        rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        eps = torch.full_like(change[:, 0], self.eps) if radius is None else radius
        return torch.where(rank < eps.floor()[:, None], moved, x.flatten(1)).view_as(x)

    def ascend(self, x_adv: Images, grad: Images, size: float | PerExample) -> Images:
        """Along the gradient, divided by its mean size: what stays of it is up to the projection (ibid., section 3.3).

        A step of eps, or of all values where eps has no limit, moves the average value by 1.
        """
        slope = grad.nan_to_num(0)
        mean = slope.flatten(1).abs().mean(1).clamp_min(torch.finfo(grad.dtype).tiny)
        whole = min(max(self.eps, 1.0), self.largest((int(grad.shape[1]), int(grad.shape[2]), int(grad.shape[3]))))
        return x_adv + _column(torch.as_tensor(size, device=grad.device) / whole, grad) * slope / _column(mean, grad)

    def steepest(self, grad: Images) -> Images:
        """One value changed by 1, the one of largest gradient."""
        return L1(1.0).steepest(grad)

    def dual(self, grad: Images) -> PerExample:
        """The rise when one value changes by 1."""
        return grad.flatten(1).abs().amax(1)

    def sample(self, x: Images, generator: Generator) -> Images:
        """`eps` random values redrawn uniformly from [0, 1]."""
        order = torch.empty_like(x).uniform_(generator=generator).flatten(1).argsort(dim=1).argsort(dim=1)
        drawn = torch.empty_like(x).uniform_(generator=generator)
        return torch.where(order.view_as(x) < math.floor(self.reach(x)), drawn, x)

    def largest(self, shape: tuple[int, int, int]) -> float:  # noqa: D102
        return float(math.prod(shape))


def _column(value: float | Tensor, like: Tensor) -> Tensor | float:
    """One value an image, shaped to be multiplied with images."""
    return value.to(like.dtype).view(-1, 1, 1, 1) if isinstance(value, Tensor) and value.ndim else value


def room_towards(change: Tensor, x: Tensor) -> Tensor:
    """How far each pixel can go in the direction of its change until the pixel range ends; 0 where there is none.

    Written without masks, which torch computes slowly.
    """
    sign = change.sign()
    return (sign.clamp_min(0) - sign * x).clamp_min_(0)


def _shrunk(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """min(max(size - t, 0), room) with the least t >= 0 at which each row sums to at most eps.

    The sum falls piecewise linearly in t. Newton's method between two bounds, halved every eighth time, finds the
    piece in which it passes eps in a fraction of the time that sorting all corners takes; each row stops by itself.
    """
    cut = torch.minimum(size, room)
    outside = cut.sum(1) > eps
    if not outside.any():
        return cut
    t, low, high = torch.zeros_like(eps), torch.zeros_like(eps), size.amax(1)
    digit, rounds, searching = torch.finfo(eps.dtype).eps, 0, outside
    while searching.any():
        left = (size - t[:, None]).clamp_min_(0)
        excess = torch.minimum(left, room).sum(1) - eps
        falling = torch.linalg.vecdot((room - left).sign_().clamp_min_(0), left.sign_())  # values on their way
        low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
        step, rounds = excess / falling, rounds + 1
        guess = torch.where((t + step > low) & (t + step < high) & bool(rounds % 8), t + step, (low + high) / 2)
        close = (excess.abs() <= 8 * digit * eps) | (step.abs() <= digit * t)
        searching = searching & ~close & (guess > low) & (guess < high)
        t = torch.where(searching, guess, t)
    shrunk = torch.minimum((size - t[:, None]).clamp_min_(0), room)
    excess = shrunk.sum(1) / eps.clamp_min(torch.finfo(eps.dtype).tiny)  # rounding, where changes are far above eps
    return torch.where(outside[:, None], shrunk / excess.clamp_min(1)[:, None], cut)


def _unit(grad: Tensor) -> Tensor:
    """Each image divided by its Euclidean length, tiny gradients (below sqrt of the smallest float) included."""
    grad = grad.nan_to_num(0)
    largest = grad.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    scaled = grad / largest.clamp_min(torch.finfo(grad.dtype).tiny)
    length = torch.linalg.vector_norm(scaled.flatten(1), dim=1).view(-1, 1, 1, 1)
    return torch.where(length > 0, scaled / length.clamp_min(torch.finfo(grad.dtype).tiny), 0)


def _radius_scale(size: Tensor, room: Tensor, eps: Tensor, *, clip: bool) -> Tensor:
    """The largest t in [0, 1] with |min(t size, room)| <= eps, per row."""
    length = torch.linalg.vector_norm(torch.minimum(size, room), dim=1)
    outside = length > eps
    if not outside.any():
        return torch.ones_like(length)
    scale = eps / torch.linalg.vector_norm(size, dim=1).clamp_min(torch.finfo(size.dtype).tiny)
    squares, limits = size.square(), room.square()
    while clip:  # scale only grows, and with it the set of pixels at their limit: as many rounds as there are pixels
        moves = (room - scale[:, None] * size).sign_().clamp_min_(0)  # 1 where the limit is not reached; masks are slow
        spent, free = torch.linalg.vecdot(1 - moves, limits), torch.linalg.vecdot(moves, squares)
        better = ((eps**2 - spent).clamp_min(0) / free.clamp_min(torch.finfo(size.dtype).tiny)).sqrt()
        better = torch.maximum(scale, torch.where(free > 0, better, scale))
        growing = outside & (better > scale * (1 + 1e-6))
        if not growing.any():
            break
        scale = torch.where(growing, better, scale)  # a row that is done stays, whatever its batch-mates need
    return torch.where(outside, scale.clamp_max(1), 1)
