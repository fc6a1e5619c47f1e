"""What is at hand in `steelman shell` and in a notebook: attacks on one image by its number, and a figure of each.

The calls `attack` and `minimal_attack` are those of maxdinech/mnist-attack (2017), on logits instead of a softmax.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import matplotlib.style
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from steelman.attacks import Attack
from steelman.attacks.confidence import length
from steelman.attacks.dichotomy import Dichotomy
from steelman.attacks.fmn import FMN
from steelman.data import Data
from steelman.engine import guarded, predict
from steelman.errors import UsageError
from steelman.page import Real
from steelman.studies.resistance.minimal import against_itself
from steelman.studies.resistance.plan import reference

Show: TypeAlias = Callable[["Shot"], None]
NARROW = 1e-3  # a bisection ends when its interval is shorter
LOOK = {  # matplotlib's own Computer Modern
    "font.family": "serif",
    "font.serif": ["cmr10"],
    "mathtext.fontset": "cm",
    "axes.formatter.use_mathtext": True,
    "font.size": 12,
}


@dataclass(frozen=True, eq=False, repr=False)
class Shot:
    """What an attack made of one image; its repr says it in a line, a notebook shows its figure."""

    img_id: int
    words: str  # which attack
    x: Tensor
    x_adv: Tensor
    before: str
    after: str
    before_confidence: float
    after_confidence: float
    norm: float  # of the change, in the attack's own p
    p: float

    @property
    def success(self) -> bool:
        """Whether the class has changed."""
        return self.before != self.after

    def __repr__(self) -> str:
        sides = (
            f"{self.before} ({100 * self.before_confidence:.0f} %)",
            f"{self.after} ({100 * self.after_confidence:.0f} %)",
        )
        if not self.success:
            return f"image {self.img_id}: {self.words} failed, it stays {sides[0]}"
        return f"image {self.img_id}: {self.words} makes {sides[0]} to {sides[1]}, |r|_{self.p:g} = {self.norm:.3f}"

    def figure(self) -> Figure:
        """Three panels: the image, the change, the adversarial image, with class and confidence."""
        with matplotlib.style.context(["default", LOOK]):
            figure = Figure(figsize=(7.2, 2.7), layout="constrained")
            change = self.x_adv - self.x
            size = float(change.abs().max()) or 1.0
            titles = (
                f"{self.before} ({100 * self.before_confidence:.0f} %)",
                f"$\\|r\\|_{{{_order(self.p)}}} = {self.norm:.3f}$" if self.success else "no success",
                f"{self.after} ({100 * self.after_confidence:.0f} %)",
            )
            parts = ((self.x, 0.0, 1.0, "gray"), (change, -size, size, "RdBu"), (self.x_adv, 0.0, 1.0, "gray"))
            for axes, (image, low, high, colours), title in zip(figure.subplots(1, 3), parts, titles, strict=True):
                grey = image.shape[0] == 1
                picture = image[0] if grey else ((image - low) / (high - low)).permute(1, 2, 0).clamp(0, 1)
                axes.imshow(picture.numpy(), cmap=colours if grey else None, vmin=low, vmax=high)
                axes.set_title(title)
                axes.set_axis_off()
        return figure

    def png(self) -> bytes:
        """The figure as a PNG file."""
        raw = io.BytesIO()
        with matplotlib.style.context(["default", LOOK]):
            self.figure().savefig(raw, format="png", dpi=110)
        return raw.getvalue()

    def _repr_png_(self) -> bytes:
        """What IPython's display protocol asks for."""
        return self.png()


class Session:
    """A classifier with images that are called by their number.

    `show` is given each shot; `steps` is what an attack takes at most.
    """

    def __init__(self, model: nn.Module, data: Data, show: Show | None = None, *, steps: int = 1000) -> None:
        self.model, self.data, self.steps, self._show = model.eval(), data, steps, show

    def attack(self, img_id: int, lr: Real = 0.005, div: Real = 2.0, p: Real = 2.0) -> Shot:
        """Adam on a change of p-norm `div` until the class changes, `steps` steps at most.

        Raises:
            UsageError: no such image, or a learning rate, norm or p out of range.
        """
        return self._shown(self._fixed(img_id, lr, div, p))

    def minimal_attack(self, img_id: int, p: Real = 2.0, a: Real = 0.0, b: Real = 4.0, lr: Real = 0.005) -> Shot:
        """The smallest p-norm between a and b at which `attack` succeeds, by bisection to 0.001.

        Raises:
            UsageError: no such image, a and b that are no interval, or a learning rate or p out of range.
        """
        if not 0 <= a < b < math.inf:
            raise UsageError(f"a is {a} and b is {b}. Expected an interval of norms, 0 <= a < b, such as a=0, b=4.")
        best = self._fixed(img_id, lr, b, p)
        while best.success and b - a > NARROW:
            middle = (a + b) / 2
            tried = self._fixed(img_id, lr, middle, p)
            if tried.success:
                best, b = tried, middle
            else:
                a = middle
        return self._shown(best)

    def nearest(self, img_id: int, p: Real = 2.0, attack: Attack | None = None) -> Shot:
        """The nearest image of another class that a minimal-norm attack finds: DDN for p = 2, else FMN.

        Raises:
            UsageError: no such image, or an attack that does not search in this norm.
        """
        steps = min(self.steps, 200)
        return self._shown(self._shot(img_id, attack or (reference(steps) if p == 2 else FMN(steps)), p, "nearest"))

    def wrong(self) -> list[int]:
        """The numbers of the images that the classifier gets wrong."""
        with guarded(self.model):
            label = predict(self.model, self.data.pixels()).argmax(1)
        return (label != self.data.labels).nonzero().squeeze(1).tolist()

    def _fixed(self, img_id: int, lr: Real, norm: Real, p: Real) -> Shot:
        if not 0 < norm < math.inf:
            raise UsageError(f"the norm is {norm}. Expected a length above 0, such as div=2.")
        # the first sphere of the bisection is the middle one
        attack = Dichotomy(p=float(p), steps=self.steps, learning_rate=float(lr), halvings=1, upper=2.0 * norm)
        return self._shot(img_id, attack, p, f"attack of norm {norm:.4g}")

    def _shot(self, img_id: int, attack: Attack, p: Real, words: str) -> Shot:
        if not 0 <= img_id < len(self.data):
            raise UsageError(f"there is no image {img_id}. Possible: 0 to {len(self.data) - 1}.")
        x = self.data.pixels(torch.tensor([img_id]))
        with guarded(self.model):
            label = predict(self.model, x).argmax(1)
        outcome = against_itself(self.model, x, label, attack, float(p))
        return Shot(
            img_id,
            words,
            x[0],
            outcome.x_adv[0],
            self.data.classes[int(label)],
            self.data.classes[int(outcome.after)],
            float(outcome.before_confidence),
            float(outcome.after_confidence),
            float(length(outcome.x_adv - x, float(p))),
            float(p),
        )

    def _shown(self, shot: Shot) -> Shot:
        if self._show is not None:
            self._show(shot)
        return shot

    def names(self) -> dict[str, Any]:
        """What a shell starts with."""
        calls = {"attack": self.attack, "minimal_attack": self.minimal_attack, "nearest": self.nearest}
        return {**calls, "wrong": self.wrong, "model": self.model, "data": self.data, "session": self}


def _order(p: float) -> str:
    return r"\infty" if math.isinf(p) else f"{p:g}"
