"""What the study does at each preset and scale, and what the original reported."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from steelman.attacks import Attack
from steelman.attacks.di_fgsm import DIFGSM
from steelman.attacks.fgsm import FGSM
from steelman.attacks.mi_fgsm import MIFGSM
from steelman.attacks.ni_fgsm import NIFGSM
from steelman.attacks.pgd import PGD
from steelman.attacks.ti_fgsm import TIFGSM
from steelman.attacks.vmi_fgsm import VMIFGSM
from steelman.data import Source
from steelman.defences.adversarial import Adversarial
from steelman.errors import UsageError, choices
from steelman.models import Architecture
from steelman.models.fast_cnn import FastCNN
from steelman.recipe import Recipe, default_recipe
from steelman.threats import Linf
from steelman.train import Training

Treatment: TypeAlias = Literal["base", "AnB", "AnB+", "BnB", "BnB+", "LP-FT", "AFT"]
Init: TypeAlias = Literal["random", "pretrained"]

PUBLISHED_EPS = 0.005  # 0.01 where pixels run from -1 to 1
QUICK_FAMILY: tuple[Attack, ...] = (FGSM(), PGD(steps=10), MIFGSM())
FAMILY: tuple[Attack, ...] = (*QUICK_FAMILY, NIFGSM(), DIFGSM(), TIFGSM(), VMIFGSM())


@dataclass(frozen=True)
class Scale:
    """How much is computed: images, cuts, seeds."""

    cuts: int | None  # how many cut points, spread evenly; None for all that the original had
    seeds: int
    num_train: int | None  # images of B; None for all
    num_test: int | None  # judged by FGSM and PGD
    num_matrix: int  # judged on the adversarial images of other networks
    num_probe: int  # looked at by the trust checks
    family: tuple[Attack, ...]  # of the matrix
    judge: Attack = PGD(steps=20)  # noqa: RUF009 (frozen)
    num_shape: int | None = None  # pictures of each kind that tell shape from texture
    treatments: tuple[Treatment, ...] = get_args(Treatment)


_CHEAP: tuple[Treatment, ...] = ("base", "AnB", "AnB+", "BnB", "LP-FT", "AFT")  # of BnB+ little is asked for its cost
SCALES = {
    "smoke": Scale(2, 1, 64, 40, 16, 8, (FGSM(), PGD(steps=5)), PGD(steps=5), num_shape=16, treatments=_CHEAP),
    "quick": Scale(None, 1, 384, 240, 48, 8, QUICK_FAMILY, PGD(steps=10), num_shape=160, treatments=_CHEAP),
    "full": Scale(None, 3, None, None, 500, 64, FAMILY),
}
TWIN_SCALES = {
    "smoke": Scale(2, 1, None, 150, 80, 8, QUICK_FAMILY),
    "quick": Scale(None, 2, 4_000, 500, 120, 16, QUICK_FAMILY),
    "full": Scale(None, 5, None, None, 1_000, 128, FAMILY),
}


@dataclass(frozen=True)
class Published:
    """A row of the original's table, in percent of 6,000 images of ImageNet-R (eps 0.01 where pixels span 2)."""

    natural: float
    adversarial: float | None


PUBLISHED = {
    "base": Published(59.07, None),
    "A4B+": Published(59.65, 25.92),
    "A8B+": Published(59.63, 25.83),
    "A12B+": Published(59.63, 25.95),
    "A16B+": Published(59.65, 26.13),
    "A4B": Published(58.90, 22.67),
    "A8B": Published(57.27, 19.32),
    "A12B": Published(52.87, 14.42),
    "A16B": Published(42.62, 5.58),
}
PUBLISHED_CUTS = (4, 8, 12, 16)


@dataclass(frozen=True)
class Arm:
    """One network of the study: where its first blocks come from, how many, whether they stay frozen."""

    name: str
    treatment: Treatment
    blocks: int  # copied from A, or from base B; 0 for base
    frozen: int = 0

    @property
    def follows_base(self) -> bool:
        """Whether its blocks come from base B, which must be trained first."""
        return self.treatment.startswith("BnB")


@dataclass(frozen=True)
class Plan:
    """The study with every choice made."""

    scale: Scale
    network: Architecture  # the one that learns B, without pretrained weights
    a: Training | Architecture  # where A comes from: trained here on the other classes, or pretrained
    b: Source
    arms: tuple[Arm, ...]
    cuts: tuple[int, ...]
    deepest: int  # the largest cut of the network
    init: Init
    threat: Linf  # where eps is chosen on val, the usual radius until then
    eps_from: Literal["asked", "original", "val"]
    attacks: tuple[Attack, ...]
    also: tuple[Source, ...]
    epochs: int
    lr: float
    seeds: tuple[int, ...]
    published: bool

    @property
    def twin(self) -> bool:
        """Whether A is trained here, on the classes that B lacks."""
        return isinstance(self.a, Training)

    @property
    def judge(self) -> Attack:
        """The attack of several steps by which every network is judged."""
        return self.scale.judge

    @property
    def every_arm(self) -> tuple[Arm, ...]:
        """The arms, and the one that stands for A where it was not asked for."""
        reference = Arm(self.reference, "AnB", self.deepest, self.deepest)
        return self.arms if reference in self.arms else (*self.arms, reference)

    @property
    def sources(self) -> tuple[Arm, ...]:
        """The arms whose adversarial images all others are judged on: one or two a treatment."""
        first, last = self.cuts[0], self.cuts[-1]
        names = ("base", f"A{first}B", f"A{last}B", f"A{first}B+", f"A{last}B+", f"B{last}B", "LP-FT", "AFT")
        return tuple(arm for arm in self.arms if arm.name in names)

    @property
    def probed(self) -> tuple[Arm, ...]:
        """The arms whose numbers go through all trust checks, which cost more than the attack itself."""
        last = self.cuts[-1]
        return tuple(arm for arm in self.arms if arm.name in ("base", f"A{last}B", f"A{last}B+", "AFT"))

    @property
    def reference(self) -> str:
        """The arm that stands for A as an attacker: A's features under a linear layer that knows B's classes."""
        return f"A{self.deepest}B"

    def trainings(self, arm: Arm, seed: int) -> tuple[Training, ...]:
        """What is trained, one after the other, each from the run before it, for an arm."""
        start, blocks = self._start(arm, seed)
        first = Training(
            self.network,
            self.b,
            self._recipe(frozen=arm.frozen),
            seed=seed,
            start=start,
            blocks=blocks,
            num=self.scale.num_train,
        )
        half = replace(self._recipe(), epochs=max(1, self.epochs // 2))
        rest = replace(half, lr=self.lr / 10, epochs=max(1, self.epochs - half.epochs))
        then = f"../{part_name(arm, seed)}-1"
        match arm.treatment:
            case "AFT":
                objective = Adversarial(PGD(steps=3), self.threat)
                return (replace(first, recipe=replace(self._recipe(), objective=objective)),)
            case "LP-FT":
                probe = replace(first, recipe=replace(half, frozen=self.deepest))
                return (probe, replace(first, recipe=rest, start=then, blocks=None))
            case "AnB+" if self.published:  # a second optimiser takes over half way
                second = replace(rest, optimizer="rmsprop")
                return (replace(first, recipe=half), replace(first, recipe=second, start=then, blocks=None))
            case _:
                return (first,)

    def _start(self, arm: Arm, seed: int) -> tuple[str | None, int | None]:
        if arm.follows_base:
            return f"../base-{seed}", arm.blocks
        if self.init == "pretrained":  # the flaw: whatever was to be drawn at random came from A as well
            return "../A", self.deepest
        return (None, None) if arm.treatment == "base" else ("../A", arm.blocks)

    def _recipe(self, *, frozen: int = 0) -> Recipe:
        keep: Literal["last", "best"] = "last" if self.published else "best"
        return default_recipe(self.network, lr=self.lr, epochs=self.epochs, keep=keep, frozen=frozen)


def part_name(arm: Arm, seed: int) -> str:
    """The stem of an arm's files, and its directory below `parts`: such as A8B-0 and A8Bplus-0."""
    return f"{arm.name.replace('+', 'plus')}-{seed}"


def arms_of(treatments: tuple[str, ...], cuts: tuple[int, ...], deepest: int) -> tuple[Arm, ...]:
    """One arm a treatment, and for those that copy n blocks one a cut, base first."""
    found: list[Arm] = []
    for name in get_args(Treatment):
        if name not in treatments:
            continue
        if name in ("LP-FT", "AFT"):
            found.append(Arm(name, name, deepest))
        elif name == "base":
            found.append(Arm("base", "base", 0))
        else:
            frozen = not name.endswith("+")
            found += [Arm(name.replace("n", str(n)), name, n, n if frozen else 0) for n in cuts]
    return tuple(found)


def check(treatments: tuple[str, ...], cuts: tuple[int, ...], possible: tuple[int, ...]) -> None:
    """Refuse a study that cannot be done.

    Raises:
        UsageError: an unknown treatment, controls without base B, or a cut that the network has not.
    """
    for name in treatments:
        if name not in get_args(Treatment):
            raise UsageError(choices("treatment", name, get_args(Treatment)))
    if "base" not in treatments:
        raise UsageError(f"treatments are {treatments}. Expected 'base' among them: it is what all are compared with.")
    for cut in cuts:
        if cut not in possible:
            raise UsageError(f"there is no cut behind {cut} blocks. Possible: {', '.join(map(str, possible))}.")


def usual_treatments(preset: str, scale: Scale) -> tuple[Treatment, ...]:
    """As published, or with the controls that it lacked and two remedies, as far as the scale has time for them."""
    return ("base", "AnB", "AnB+") if preset == "published" else scale.treatments


def usual_cuts(possible: tuple[int, ...], num: int | None) -> tuple[int, ...]:
    """The original's cuts where the network has them, else all; of these `num`, the last one always among them."""
    cuts = PUBLISHED_CUTS if set(PUBLISHED_CUTS) <= set(possible) else possible
    if num is None or num >= len(cuts):
        return cuts
    return tuple(cuts[round((index + 1) * len(cuts) / num) - 1] for index in range(num))


def small_network() -> Architecture:
    """The network of the small twin: two convolutions and a hidden layer, with BatchNorm behind each."""
    return FastCNN(batch_norm=True)
