"""Attacks: where to look next. A `Problem` evaluates, counts and remembers; an `Attack` only searches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Generator, nn

from steelman.attacks.found import Found, broken, join
from steelman.attacks.problem import Problem
from steelman.engine import chunk_size, generator_for, guarded, micro_batch, predict
from steelman.errors import PixelError, UsageError
from steelman.progress import Progress, between, silent
from steelman.spec import Spec
from steelman.threats import TOLERANCE, Ball
from steelman.types import Images, Labels

__all__ = ["Attack", "Found", "Nearest", "Problem"]


@dataclass(frozen=True, repr=False)
class Attack(Spec):
    """A search for an allowed image that the model gets wrong; the fields are its hyperparameters.

    Of a model that draws random numbers every evaluation is the mean of `samples` passes (expectation over
    transformation, Athalye et al. 2018, arXiv:1802.00420, section 4.2); a deterministic one is asked once all the same.

    Raises:
        UsageError: fewer than one sample.
    """

    samples: int = field(default=1, kw_only=True)

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2")
    needs: ClassVar[str] = "gradients"
    climbs: ClassVar[bool] = True  # all the way up: the last candidate of a search is its best
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes() < 1:
            raise UsageError(f"{self!r}: expected at least one sample.")

    def passes(self) -> int:
        """How many passes of a random model every evaluation is the mean of."""
        return self.samples

    def search(self, problem: Problem) -> None:
        """Show candidates to the problem, which remembers the best."""
        raise NotImplementedError

    def climbs_anew(self) -> int:
        """How many climbs from anew there are, of which the best counts."""
        return 1

    def cost(self) -> str:
        """What one image costs at most, in words."""
        raise NotImplementedError

    def strays(self, threat: Ball) -> bool:  # noqa: ARG002
        """Whether the search shows candidates outside the threat by design."""
        return False

    def seeks_nearest(self) -> bool:
        """Whether the search is for the nearest success of all, and not for any within eps."""
        return False

    def check_norm(self, threat: Ball) -> None:
        """See that the attack searches in the threat's norm.

        Raises:
            UsageError: it does not.
        """
        if type(threat).__name__ not in self.norms:
            raise UsageError(
                f"{self!r} does not search in {type(threat).__name__}, only in {', '.join(self.norms)}. "
                "Choose another attack (steelman list attacks shows their norms) or another threat."
            )

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: Ball,
        *,
        target: Labels | None = None,
        closest: bool = False,
        generator: Generator | None = None,
        progress: Progress = silent,
    ) -> Images:
        """The best image found for each x: a broken one, else the allowed one with the largest margin.

        With `closest` the nearest broken one, else x itself. An image that the model already gets wrong, or that is
        the target already, is returned as it is: it needs no change.
        """
        x = x.detach()
        _check_range(x, threat)
        if len(x) == 0:
            return x.clone()
        with guarded(model):
            rows = (~broken(predict(model, x), y, target)).nonzero().squeeze(1)
        aim = None if target is None else target[rows]
        found = self.run(
            model, x[rows], y[rows], threat, target=aim, closest=closest, generator=generator, progress=progress
        )
        return x.index_copy(0, rows, found.x_adv)

    def run(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: Ball,
        *,
        target: Labels | None = None,
        closest: bool = False,
        generator: Generator | None = None,
        progress: Progress = silent,
    ) -> Found:
        """What the attack found, image by image, with counts of queries and the health of its gradients.

        Without a generator random choices are drawn from seed 0.

        Raises:
            UsageError: the attack does not search in the threat's norm, or under torch.inference_mode().
            PixelError: images outside the pixel range, to which the threat keeps all that it allows.
        """
        self.check_norm(threat)
        x, generator = x.detach().contiguous(), generator or generator_for(x)  # draws follow the order in memory
        _check_range(x, threat)
        if len(x) == 0:
            return Problem(model, x, y, threat, generator=generator, batch=1).found()

        def chunks() -> Iterator[Found]:
            batch, size = micro_batch(model, x), chunk_size(x)
            for start in range(0, len(x), size):
                part = slice(start, start + size)
                problem = Problem(
                    model,
                    x[part],
                    y[part],
                    threat,
                    target=None if target is None else target[part],
                    closest=closest,
                    generator=generator,
                    batch=batch,
                    samples=self.passes(),
                )
                end = start + len(problem.x)
                problem.progress = between(progress, start, end, len(x), repr(self))
                self.search(problem)
                progress(end, len(x), repr(self))
                yield problem.found()

        with guarded(model):
            return join(chunks(), len(x))

    def perturb(
        self, model: nn.Module, x: Images, y: Labels, threat: Ball, *, generator: Generator | None = None
    ) -> Images:
        """The attack's own last candidate for every image, right or wrong before: what training needs.

        Nothing is judged and no image is left out, so one-step attacks cost one gradient and no more. Of an attack of
        several searches, or of random ones, the allowed candidate with the largest margin, after all of its budget.
        """
        x, generator = x.detach().contiguous(), generator or generator_for(x)
        with guarded(model):
            options: dict[str, Any] = {
                "judged": not self.climbs or self.climbs_anew() > 1,
                "finishes": False,
                "samples": self.passes(),
            }
            problem = Problem(model, x, y, threat, generator=generator, batch=len(x), **options)
            self.search(problem)
        return problem.best


def _check_range(x: Images, threat: Ball) -> None:
    if threat.clip and len(x) and not (float(x.amin()) >= -TOLERANCE and float(x.amax()) <= 1 + TOLERANCE):
        raise PixelError(
            f"pixels run from {float(x.amin()):.4g} to {float(x.amax()):.4g}, and {threat!r} allows none outside "
            "[0, 1]. Give images in [0, 1] and a model that normalises them, or a threat with clip=False."
        )


@dataclass(frozen=True, repr=False)
class Nearest(Attack):
    """An attack that looks for the nearest success of all, and not for any within eps.

    It shows candidates at any distance; those outside the threat are counted as rejected, not as successes. With
    `closest=True` and an unlimited threat, L2(inf) for one, it gives each image's smallest perturbation found.
    """

    def strays(self, threat: Ball) -> bool:  # noqa: ARG002
        """True: candidates at any distance."""
        return True

    def seeks_nearest(self) -> bool:
        """True."""
        return True

    def perturb(
        self, model: nn.Module, x: Images, y: Labels, threat: Ball, *, generator: Generator | None = None
    ) -> Images:
        """The nearest success within the threat, else the image itself."""
        return self(model, x, y, threat, closest=True, generator=generator)
