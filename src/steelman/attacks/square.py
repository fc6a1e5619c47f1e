"""Square: Andriushchenko et al. 2020, a query-efficient black-box attack via random search (arXiv:1912.00049)."""

import copy
import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steelman.attacks import Attack, Problem
from steelman.errors import UsageError
from steelman.progress import Stages
from steelman.threats import L1, L2, Ball, Linf
from steelman.types import Images, Mask, PerExample
from steelman.windows import Windows, windows

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the squares' area halves
SMALL = 1 / 3  # of the image's side: from there on the rest of the image is not computed again
COMPACT = 0.9  # go on with the unfinished images alone as soon as they are fewer than this share


@dataclass(frozen=True, repr=False)
class Square(Attack):
    """Random search: every query changes one square window of each image, kept when the margin grows.

    In L-inf the window's channels go to one end of the ball each, from vertical stripes at first. In L2 and L1 a second
    window gives its budget to the first, from a grid of tiles. Windows cover `p_init` of the image at first and shrink
    by a schedule made for 10,000 queries; `rescale` stretches it to `queries`. Positions, signs and orientations are
    drawn for each image by itself. `queries` counts all proposals, per restart; in L-inf one that changes nothing, as a
    fifth do, is not looked at, and of a network of convolutions only what a small window reaches is computed again
    (`steelman.windows`). A `warm` search begins at the best image that a search before it has found: where gradients
    have come to an end, small windows (`p_init` of 0.1 or less) often go on.

    Raises:
        UsageError: fewer than one query or restart, or p_init outside (0, 1].
    """

    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    rescale: bool = False
    warm: bool = False

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    climbs: ClassVar[bool] = False
    needs: ClassVar[str] = "scores"
    paper: ClassVar[str] = "Andriushchenko et al. 2020, arXiv:1912.00049"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 1 or self.restarts < 1 or not 0 < self.p_init <= 1:
            raise UsageError(f"{self!r}: expected at least one query and one restart, and p_init in (0, 1].")

    def search(self, problem: Problem) -> None:  # noqa: D102
        stages = Stages(problem.progress, self.restarts)
        for _ in range(self.restarts):
            if problem.done:
                return
            told = stages.stage("")
            rows, query, walk = problem.active.nonzero().squeeze(1), 0, None
            while query < self.queries and len(rows):
                with problem.part(rows) as rest:
                    rest.progress = told
                    walk = walk or _WALKS[type(rest.threat)](rest, rows, len(problem.x))
                    query = self._walk_on(rest, walk, query)
                    keep = rest.active
                rows, walk = rows[keep], walk.only(keep)

    def cost(self) -> str:  # noqa: D102
        return f"{self.queries * self.restarts} forwards"

    def share(self, query: int) -> float:
        """The share of the image that a window covers at the query, counted from 0 after the first look."""
        scaled = int(query / self.queries * 10_000) if self.rescale else query
        return self.p_init / 2 ** sum(scaled > halving for halving in HALVINGS)

    def _walk_on(self, problem: Problem, walk: "_Walk", query: int) -> int:
        """Query until too many images are finished or the budget is; returns how far it came."""
        fewest = COMPACT * len(problem.x)
        while query < self.queries and not problem.done and problem.num_active >= fewest:
            problem.progress(query, self.queries, "")
            if query:
                walk.propose(self.share(query - 1))
            elif self.warm:
                walk.go_on(problem.best)
            else:
                walk.start()
            walk.settle(problem.value(walk.x, "margin", among=walk.moved, windows=walk.windows))
            query += 1
        return query


class _Walk:
    """The random walk of some images: where each is, and the margin there.

    Random numbers are drawn for all images of the search, finished or not, so that when an image breaks does not
    change the proposals of the others.
    """

    def __init__(self, problem: Problem, rows: Tensor, total: int) -> None:
        self.threat, self.clean, self.generator = problem.threat, problem.x, problem.generator
        self.model, self.batch, self.samples = problem.model, problem.batch, problem.samples
        self.rows, self.total = rows, total
        self.x, self.kept = self.clean.clone(), self.clean
        self.value = torch.full((len(self.clean),), -math.inf, device=self.clean.device)
        self.moved: Mask | None = None  # the images that the proposal changes; None: all
        self.windows: Windows | None = None  # what the model makes of the parts that the proposal leaves as they were

    def only(self, keep: Mask) -> "_Walk":
        """The walk of some of the images."""
        walk = copy.copy(self)
        walk.clean, walk.rows, walk.x, walk.value = self.clean[keep], self.rows[keep], self.x[keep], self.value[keep]
        walk.windows = self.windows and self.windows.only(keep)
        return walk

    def start(self) -> None:
        """Move x to the first point."""
        raise NotImplementedError

    def go_on(self, x: Images) -> None:
        """Move to a point that is known."""
        self.x = x.clone(memory_format=torch.contiguous_format)

    def propose(self, share: float) -> None:
        """Move x to a random proposal."""
        raise NotImplementedError

    def settle(self, value: PerExample) -> None:
        """Stay where the margin grew, else go back."""
        better = value > self.value
        if self.moved is not None:
            better &= self.moved
        self._undo(~better)
        self.value = torch.where(better, value, self.value)

    def _undo(self, where: Mask) -> None:
        self.x = torch.where(where.view(-1, 1, 1, 1), self.kept, self.x)

    def _coins(self, *shape: int) -> Tensor:
        """True or False, of a shape for each image."""
        drawn = torch.rand((self.total, *shape), generator=self.generator, device=self.x.device)
        return drawn[self.rows] < 0.5

    def _corners(self, side: int) -> tuple[Tensor, Tensor]:
        """The first row and column (b,) of a random square window in each image."""
        device, shape = self.x.device, (self.total, 1, 1)
        top, left = (
            torch.randint(0, size - side + 1, shape, generator=self.generator, device=device)[self.rows, 0, 0]
            for size in self.clean.shape[2:]
        )
        return top, left

    def _window(self, top: Tensor, left: Tensor, side: int) -> Tensor:
        """The flat places (b, 1, side * side) of these windows in each image's plane."""
        width, step = self.clean.shape[3], torch.arange(side, device=self.x.device)
        return (top * width + left)[:, None, None] + (step[:, None] * width + step).flatten()


class _LinfWalk(_Walk):
    """Windows whose every channel is at one end of the ball; only the window is ever touched."""

    def start(self) -> None:
        """Vertical stripes, each channel by itself."""
        channels, width = self.clean.shape[1], self.clean.shape[3]
        self.go_on(self._end(self._coins(channels, 1, width), self.clean))

    def go_on(self, x: Images) -> None:
        super().go_on(x)
        self.flat, self.old = torch.zeros(len(self.x), 0, dtype=torch.int64, device=self.x.device), self.x[:, :0, 0, 0]
        self.asked = False

    def propose(self, share: float) -> None:
        """Every channel of a window to one end."""
        images, channels, height, width = self.clean.shape
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        top, left = self._corners(side)
        self._look(top, left, side)
        plane = torch.arange(images * channels, device=self.x.device).view(images, channels, 1) * (height * width)
        self.flat = plane + self._window(top, left, side)
        self.old = self.x.view(-1)[self.flat]
        new = self._end(self._coins(channels, 1), self.clean.reshape(-1)[self.flat])
        self.moved = (new != self.old).flatten(1).any(1)
        self.x.view(-1)[self.flat] = new

    def _look(self, top: Tensor, left: Tensor, side: int) -> None:
        """What the model makes of all but the window is kept as soon as windows are small; they never grow again."""
        if not self.asked and self.samples == 1 and side <= SMALL * min(self.clean.shape[2:]):
            self.windows, self.asked = windows(self.model, self.x, self.batch), True
        if self.windows:
            self.windows.look(top, left, side)

    def _undo(self, where: Mask) -> None:
        if self.windows:
            self.windows.keep(~where)
        rows = where.nonzero().squeeze(1)
        self.x.view(-1)[self.flat[rows]] = self.old[rows]

    def _end(self, upper: Tensor, clean: Tensor) -> Tensor:
        """The pixels at the upper or lower end of the ball."""
        reach = self.threat.reach(self.clean)
        moved = clean + torch.where(upper, reach, -reach).to(clean)
        return moved.clamp_(0, 1) if self.threat.clip else moved


class _BudgetWalk(_Walk):
    """L2 and L1: windows with a bump up and a bump down; what a second window had moves to the first."""

    @property
    def order(self) -> int:
        """The p of the norm."""
        return 1 if isinstance(self.threat, L1) else 2

    def start(self) -> None:
        """A grid of five by five tiles, each channel with a sign by itself."""
        channels, height, width = self.clean.shape[1:]
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        upright = self._coins(1, rows, columns)[..., None, None]
        tiles = self._signs(channels, rows, columns)[..., None, None] * self._bumps(side, upright)
        change = torch.zeros_like(self.clean)
        top, left = (height - side * rows) // 2, (width - side * columns) // 2
        grid = tiles.permute(0, 1, 2, 4, 3, 5).reshape(-1, channels, rows * side, columns * side)
        change[:, :, top : top + rows * side, left : left + columns * side] = grid
        self.x = self._allowed(change)

    def propose(self, share: float) -> None:
        """A bump in one window, as large as what two windows and the unused radius allow."""
        channels, height, width = self.clean.shape[1:]
        side = max(round(math.sqrt(share * height * width)), 3)
        side = min(side + (side % 2 == 0), height, width)
        first, second = (self._window(*self._corners(side), side).expand(-1, channels, -1) for _ in range(2))
        change = (self.x - self.clean).flatten(2)
        spent = self._length(change.flatten(1))[..., None] ** self.order
        unused = (self.threat.reach(self.clean) ** self.order - spent).clamp_min(0) / channels
        old = change.gather(2, first)
        length = self._length(old)
        change.scatter_(2, first, 0)
        budget = length**self.order + self._length(change.gather(2, second)) ** self.order + unused
        change.scatter_(2, second, 0)
        new = self._signs(channels, 1) * self._bumps(side, self._coins(1, 1, 1)).flatten(2) + old / (length + 1e-12)
        # in L1 every channel gets the budget of all, for the projection to choose from, as in the reference code
        size = budget ** (1 / self.order) * channels ** (2 - self.order)
        change.scatter_(2, first, new / (self._length(new) + 1e-12) * size)
        self.kept, self.x = self.x, self._allowed(change.view_as(self.clean))

    def _signs(self, *shape: int) -> Tensor:
        return self._coins(*shape).to(self.clean.dtype) * 2 - 1

    def _bumps(self, side: int, upright: Tensor) -> Tensor:
        bump = _bump(side, self.order).to(self.clean)
        return torch.where(upright, bump, bump.t())

    def _length(self, change: Tensor) -> Tensor:
        return torch.linalg.vector_norm(change, self.order, dim=-1, keepdim=True)

    def _allowed(self, change: Tensor) -> Images:
        """In L1 projected, in L2 brought to the radius' length, then cut to the pixel range."""
        if self.order == 1:
            return self.threat.project(self.clean + change, self.clean)
        length = self._length(change.flatten(1)).view(-1, 1, 1, 1)
        x = self.clean + change * (self.threat.reach(self.clean) / (length + 1e-12))
        return x.clamp_(0, 1) if self.threat.clip else x


_WALKS: dict[type[Ball], type[_Walk]] = {Linf: _LinfWalk, L2: _BudgetWalk, L1: _BudgetWalk}


@functools.cache
def _bump(side: int, order: int) -> Tensor:
    """A square of a positive upper and a negative lower half, each highest in its middle, of length 1 (section 3.4).

    Rings around the middle add 1 / ring^2 each, 1 / ring^4 in L1, as in the reference code.
    """
    bump = torch.cat((_hill(side // 2, side, order), -_hill(side - side // 2, side, order)))
    return bump / bump.abs().pow(order).sum().pow(1 / order)


def _hill(height: int, width: int, order: int) -> Tensor:
    if not height:
        return torch.zeros(0, width)
    ring = torch.maximum(
        (torch.arange(height) - height // 2).abs()[:, None], (torch.arange(width) - width // 2).abs()[None]
    )
    weights = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float32) ** -(4 // order)
    sums = weights.flip(0).cumsum(0).flip(0)  # of this ring and all further out
    hill = sums[ring]
    return hill / hill.pow(order).sum().pow(1 / order)
