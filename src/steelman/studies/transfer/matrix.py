"""Adversarial sets made on each of several networks and judged on every other: what carries over from whom to whom.

Szegedy et al. 2014 (arXiv:1312.6199, section 4.2) and Papernot et al. 2016 (arXiv:1605.07277) show such a matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, nn

from steelman.attacks import Attack
from steelman.chance import drawing_from
from steelman.data import Data
from steelman.engine import guarded, micro_batch
from steelman.errors import ThreatViolation, UsageError
from steelman.evaluate import accuracy
from steelman.page import Matrix
from steelman.progress import Progress, silent
from steelman.stats import Share
from steelman.threats import Ball
from steelman.types import Images, Labels, Mask

_JUDGING = 2**40  # a seed that no search has


@dataclass(frozen=True, eq=False)
class AdversarialSet:
    """Every image attacked on one source network, also those that it got wrong: a target may get them right."""

    source: str
    attack: str
    x_adv: Images
    y: Labels


def craft(
    name: str,
    model: nn.Module,
    data: Data,
    attack: Attack,
    threat: Ball,
    *,
    generator: Generator,
    progress: Progress = silent,
) -> AdversarialSet:
    """The attack's own last candidates for all images, in float32.

    Raises:
        UsageError: the attack does not search in the threat's norm.
        ThreatViolation: it returned an image that the threat does not allow.
    """
    attack.check_norm(threat)
    x, parts = data.pixels(), list[torch.Tensor]()
    with guarded(model), drawing_from(model, generator.initial_seed()):
        batch = micro_batch(model, x)
        for start in range(0, len(x), batch):
            part = slice(start, start + batch)
            made = attack.perturb(model, x[part], data.labels[part], threat, generator=generator)
            if outside := int((~threat.contains(made, x[part])).sum()):
                raise ThreatViolation(f"{attack!r} returned {outside} of {len(made)} images that {threat!r} forbids.")
            parts.append(made)
            progress(min(start + batch, len(x)), len(x), f"{attack!r} on {name}")
    return AdversarialSet(name, repr(attack), torch.cat(parts), data.labels)


def fits(made: AdversarialSet, data: Data, threat: Ball) -> None:
    """See that a set holds these images within the threat.

    Raises:
        UsageError: other images, other labels, or images that the threat does not allow.
    """
    if made.x_adv.shape != data.pixels(slice(0, len(data))).shape or not torch.equal(made.y, data.labels):
        raise UsageError(
            f"the set {made.source} holds {len(made.y)} other images than the {len(data)} of {data.name}. "
            "Give the same --data, --split and --num as when it was saved."
        )
    if not (inside := threat.contains(made.x_adv, data.pixels())).all():
        raise UsageError(
            f"{int((~inside).sum())} of {len(data)} images of the set {made.source} are not within {threat!r}. "
            "Give the threat that it was made for."
        )


def held(model: nn.Module, data: Data, made: AdversarialSet) -> Mask:
    """Which images the model gets right both as they are and attacked."""
    return accuracy(model, data) & accuracy(model, (made.x_adv, made.y))


def judged(
    models: Mapping[str, nn.Module], data: Data, sets: Sequence[AdversarialSet], progress: Progress = silent
) -> dict[tuple[str, str, str], Mask]:
    """Which images hold, by (attack, source, target); what a model draws follows from a seed that no search has."""
    found: dict[tuple[str, str, str], Mask] = {}

    def right(model: nn.Module, images: Data | tuple[Images, Labels]) -> Mask:
        with drawing_from(model, _JUDGING):
            return accuracy(model, images)

    natural = {name: right(model, data) for name, model in models.items()}
    for index, made in enumerate(sets):
        for name, model in models.items():
            found[made.attack, made.source, name] = natural[name] & right(model, (made.x_adv, made.y))
        progress(index + 1, len(sets), f"judging images made on {made.source}")
    return found


def matrices(
    natural: Mapping[str, Mask], found: Mapping[tuple[str, str, str], Mask], threat: Ball
) -> tuple[Matrix, ...]:
    """One matrix an attack: rows are sources, columns targets; the first row is natural accuracy."""
    items: list[Matrix] = []
    for attack in dict.fromkeys(attack for attack, _, _ in found):
        sources = dict.fromkeys(source for one, source, _ in found if one == attack)
        cells = [tuple(Share.of(mask).to_json() for mask in natural.values())]
        cells += [tuple(Share.of(found[attack, source, name]).to_json() for name in natural) for source in sources]
        caption = (
            f"Images still right under {attack} within {threat!r}, made on the network of the row and judged on that "
            "of the column; where both are the same network the attack is white-box."
        )
        stem = f"matrix-{attack.partition('(')[0].lower()}-{len(items)}"
        rows = ("no attack", *sources)
        items.append(Matrix(stem, caption, "made on", "judged on", rows, tuple(natural), tuple(cells)))
    return tuple(items)


def matrix_of(raw: Mapping[str, Any]) -> Matrix:
    """The matrix that was written as JSON."""
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    plain["cells"] = tuple(tuple(row) for row in raw["cells"])
    return Matrix(**plain)
