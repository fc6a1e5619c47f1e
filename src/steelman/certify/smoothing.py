"""Randomised smoothing, predict and certify: Cohen, Rosenfeld & Kolter 2019 (arXiv:1902.02918)."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from scipy import special
from torch import Generator, Tensor, nn

from steelman.attacks.found import predicts
from steelman.certify import Certifier
from steelman.engine import forward, generator_for, guarded, micro_batch
from steelman.errors import RunError, UsageError
from steelman.models.weights import add_weights
from steelman.progress import Progress, silent
from steelman.threats import L1, L2, TOLERANCE, Ball, Linf
from steelman.types import Counts, Images, Labels, Mask, PerExample

ABSTAINS = -1  # in place of a class
_SLACK = 1e-9  # relative, by which a radius is rounded down: more than float64 loses on the way to it


@dataclass(frozen=True, eq=False)
class Radii:
    """What is proven of each image: the smoothed classifier says `label` everywhere within the L2 distance `radius`.

    Where it abstains the label is -1 and the radius 0. `hits` of the n draws were of the class chosen before.
    """

    label: Labels
    radius: PerExample
    hits: Counts

    def certified(self, y: Labels, radius: float) -> Mask:
        """Which images are proven to be classified as `y` within the radius."""
        return (self.label == y) & (self.radius >= radius)


@dataclass(frozen=True, repr=False)
class Smoothing(Certifier):
    """The class a model most often gives to noisy copies, proven within sigma Phi^-1(p) around the image.

    What is certified is the smoothed classifier, not the model itself: the most likely class under Gaussian noise. p is
    a lower bound of that class's probability from `n` draws, after `n0` others chose it. Each image's statement holds
    with probability 1 - alpha over the draws.

    Fields:
        sigma: the noise's standard deviation, in pixel units.
        n0: draws that choose the class.
        n: draws that bound its probability; n = 10,000 proves no more than 3.2 sigma, 100,000 no more than 3.8 sigma.
        alpha: the probability of a false statement about an image.

    Raises:
        UsageError: a number out of its range.
    """

    sigma: float = 0.25
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001

    smooths: ClassVar[bool] = True
    paper: ClassVar[str] = "Cohen et al. 2019, arXiv:1902.02918"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma < math.inf or min(self.n0, self.n) < 1 or not 0 < self.alpha < 1:
            raise UsageError(f"{self!r}: expected a sigma above 0, n0 and n of 1 or more, and 0 < alpha < 1.")

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: Ball,
        *,
        generator: Generator | None = None,
        progress: Progress = silent,
    ) -> Mask:
        """Whether the smoothed classifier is proven to say `y` everywhere in the threat.

        A ball of L1 lies within that of L2 of the same radius, one of L-inf within sqrt(values) times it.

        Raises:
            UsageError: another norm.
        """
        radius = self.within(threat, x)
        return self.certify(model, x, generator=generator, progress=progress).certified(y, radius)

    def within(self, threat: Ball, x: Images) -> float:
        """The radius of an L2 ball that holds all that the threat allows.

        Raises:
            UsageError: there is none.
        """
        if not isinstance(threat, L2 | L1 | Linf):
            raise UsageError(
                f"{self!r} proves nothing in {threat!r}. Possible: L2, and the L1 and Linf balls within it."
            )
        wide = math.sqrt(x[0].numel()) if isinstance(threat, Linf) and len(x) else 1.0
        return wide * (threat.eps + TOLERANCE * max(1.0, threat.eps, threat.terms(x)))

    def certify(
        self,
        model: nn.Module,
        x: Images,
        *,
        generator: Generator | None = None,
        progress: Progress = silent,
        log: Path | None = None,
    ) -> Radii:
        """The class and the proven L2 radius of each image; what `log` holds already is not computed again.

        Each image has noise of its own, drawn from a seed that depends on the generator and on its place alone.

        Args:
            model: from pixels in [0, 1] to logits; it must take pixels outside, too.
            x: pixels in [0, 1].
            generator: gives the seed; None for seed 0.
            progress: told in images.
            log: a file that gets one JSON line an image at once, from which a stopped certification goes on.

        Raises:
            RunError: the log is that of other images, weights, draws or constants, or damaged.
        """
        seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
        rows = [] if log is None else _opened(log, self._identity(model, x, seed))
        label, radius, hits = torch.full((len(x),), ABSTAINS), torch.zeros(len(x)).double(), torch.zeros(len(x)).long()
        with guarded(model):
            for index, image in enumerate(x):
                if index < len(rows):
                    row = rows[index]
                else:
                    row = self._certified(model, image, seed + index)
                    if log is not None:
                        _append(log, row)
                label[index], radius[index], hits[index] = row["label"], row["radius"], row["hits"]
                progress(index + 1, len(x), repr(self))
        return Radii(label.to(x.device), radius.to(x.device), hits.to(x.device))

    def predict(
        self, model: nn.Module, x: Images, *, generator: Generator | None = None, progress: Progress = silent
    ) -> Labels:
        """The smoothed classifier's class for each image from `n` draws; -1 where the leading two are too close.

        A class other than the most likely one is returned with probability alpha at most.
        """
        seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
        guesses = torch.full((len(x),), ABSTAINS)
        with guarded(model):
            for index, image in enumerate(x):
                counts = self._counts(model, image, self.n, generator_for(image, seed + index))
                first, second = counts.topk(2).values.tolist()
                if min(1.0, 2 * float(special.bdtr(second, first + second, 0.5))) <= self.alpha:
                    guesses[index] = counts.argmax()
                progress(index + 1, len(x), repr(self))
        return guesses.to(x.device)

    def radius(self, hits: int) -> float:
        """What so many hits in n draws prove: sigma Phi^-1 of the one-sided Clopper-Pearson bound, 0 where below."""
        low = float(special.betaincinv(hits, self.n - hits + 1, self.alpha)) if hits else 0.0
        return max(0.0, self.sigma * float(special.ndtri(low)) * (1 - _SLACK)) if low > 0.5 else 0.0

    def _certified(self, model: nn.Module, image: Tensor, seed: int) -> dict[str, Any]:
        generator = generator_for(image, seed)
        chosen = int(self._counts(model, image, self.n0, generator).argmax())
        hits = int(self._counts(model, image, self.n, generator)[chosen])
        radius = self.radius(hits)
        return {"label": chosen if radius > 0 else ABSTAINS, "radius": radius, "hits": hits}

    def _counts(self, model: nn.Module, image: Tensor, draws: int, generator: Generator) -> Counts:
        """How many of so many noisy copies are taken for each class."""
        counts: Tensor | None = None
        for size in _pieces(draws, micro_batch(model, image[None])):
            copies = torch.empty((size, *image.shape), device=image.device, dtype=image.dtype)
            copies.normal_(0, self.sigma, generator=generator).add_(image)
            with torch.no_grad():
                logits = forward(model, copies)
            said = logits.argmax(1)[predicts(logits)]
            counted = said.bincount(minlength=logits.shape[1])
            counts = counted if counts is None else counts + counted
        assert counts is not None
        return counts

    def _identity(self, model: nn.Module, x: Images, seed: int) -> str:
        digest = hashlib.sha256(f"{self!r} {seed} {tuple(x.shape)}".encode())
        digest.update(x.detach().cpu().contiguous().numpy().tobytes())
        add_weights(digest, model)
        return digest.hexdigest()


def _pieces(total: int, size: int) -> Iterator[int]:
    yield from (min(size, total - start) for start in range(0, total, size))


def _opened(log: Path, identity: str) -> list[dict[str, Any]]:
    """The rows of a log, which is made where it is missing; a last line that a kill cut short is dropped.

    Raises:
        RunError: the log is another one's, or damaged, or cannot be written.
    """
    try:
        if not log.exists():
            log.parent.mkdir(parents=True, exist_ok=True)
            _append(log, {"identity": identity})
        text = log.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            log.write_text(whole)
        lines = [json.loads(line) for line in whole.splitlines()]
        if not lines:  # killed while writing the very first line
            _append(log, {"identity": identity})
            return []
        if lines[0]["identity"] != identity:
            raise RunError(
                f"{log} holds certificates of other images, weights, seed or constants. Give another file or delete it."
            )
        assert all(row.keys() == {"label", "radius", "hits"} for row in lines[1:])
    except OSError as error:
        raise RunError(
            f"cannot write {log} ({error.strerror}). Give a file in a directory that you may write."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{log} is damaged ({error}). Delete it and certify again.") from None
    else:
        return lines[1:]


def _append(log: Path, row: dict[str, Any]) -> None:
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")
