"""A shield under attack, static and adaptive: never the one number without the other.

Static: the images are made for the undefended model and judged on the defended one. Adaptive: the attack knows the
shield and works on the defended model, through stand-ins where it has no derivative and over draws where it is random
(Athalye, Carlini & Wagner 2018, arXiv:1802.00420; Tramer et al. 2020, arXiv:2002.08347).
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn

from steelman.attacks import Attack
from steelman.data import Data
from steelman.defences import Shield
from steelman.engine import generator_for, guarded
from steelman.evaluate import Outcome, judge, struck_once
from steelman.losses import margin
from steelman.progress import Progress, Stages, silent
from steelman.stats import Share, mcnemar
from steelman.targets import TargetKind
from steelman.threats import Ball
from steelman.types import Labels, Mask


@dataclass(frozen=True, eq=False)
class Shielded:
    """What two strikes did to a shielded model; rows are those of the images."""

    shield: Shield
    model: nn.Module  # the defended one
    undefended: Outcome
    static_held: Mask  # right behind the shield, before and after the attack on the undefended model
    searched_held: Mask  # right, and not broken by the search on the defended model alone
    adaptive: Outcome  # of the defended model; the static images are among its candidates

    @property
    def static(self) -> Share:
        """Accuracy behind the shield on images made for the undefended model."""
        return Share.of(self.static_held)

    def to_json(self) -> dict[str, Any]:
        """Shares without the shield and with it under both attackers; of the search alone, with a paired test.

        The test is of the static images against those of the search on the defended model: with the static ones among
        its candidates the adaptive attacker could only win.
        """
        return {
            "shield": repr(self.shield),
            "undefended": {name: getattr(self.undefended, name).to_json() for name in ("natural", "robust")},
            "natural": self.adaptive.natural.to_json(),
            "static": self.static.to_json(),
            "adaptive": self.adaptive.robust.to_json(),
            "attack": repr(self.adaptive.attack),
            "search": Share.of(self.searched_held).to_json(),
            "p": mcnemar(self.static_held, self.searched_held).p,
        }


def strike_shielded(
    model: nn.Module,
    shield: Shield,
    data: Data,
    attack: Attack,
    threat: Ball,
    *,
    target: Labels | TargetKind | None = None,
    kept: Path | None = None,
    generator: Generator | None = None,
    progress: Progress = silent,
) -> Shielded:
    """Attack the undefended model and the defended one, and judge both on the defended one.

    An adaptive attacker may use the static images as well: where these break an image that the search on the defended
    model did not, they count. The adaptive accuracy is therefore no higher than the static one, random shields aside.
    A random shield is attacked over as many draws as it asks for, unless the attack asks for more. Targets are chosen
    once, on the undefended model. With a path the outcomes of both searches are kept beside it, and not made again.

    Raises:
        As `strike`.
    """
    defended, own = shield(model), set(model.modules())
    for module in set(defended.modules()) - own:  # modules begin in train mode, which the panel would remark on
        module.training = model.training
    stems = [None if kept is None else kept.with_name(f"{kept.name}-{name}") for name in ("undefended", "search")]
    aware = averaging(attack, shield)
    stages = Stages(progress, attack.passes() + aware.passes())
    seed = 0 if generator is None else generator.initial_seed()

    def told(weight: int) -> dict[str, Any]:  # each search draws from the start: which of them is new does not matter
        return {"generator": generator_for(data.images, seed), "progress": stages.stage("", weight)}

    undefended = struck_once(stems[0], model, data, attack, threat, target=target, **told(attack.passes()))
    again: dict[str, Any] = {"target": undefended.target, **told(aware.passes())}
    adaptive = struck_once(stems[1], defended, data, aware, threat, **again)
    transferred = _given(defended, adaptive, undefended, data)
    held = adaptive.right & ~transferred.broken
    alone = adaptive.right & ~adaptive.broken
    return Shielded(shield, defended, undefended, held, alone, _worse(adaptive, transferred))


def averaging(attack: Attack, shield: Shield | None) -> Attack:
    """The attack over as many draws as the shield asks for, where those are more than it takes."""
    return replace(attack, samples=shield.samples) if shield and attack.passes() < shield.samples else attack


def _given(defended: nn.Module, adaptive: Outcome, undefended: Outcome, data: Data) -> Outcome:
    """The adaptive outcome as if its search had shown the undefended model's images alone."""
    rows = adaptive.right.nonzero().squeeze(1)
    shown = replace(
        adaptive,
        x_adv=undefended.x_adv.clone(),
        after=adaptive.after.clone(),
        after_confidence=adaptive.after_confidence.clone(),
        broken=torch.zeros_like(adaptive.broken),
        survives=torch.zeros_like(adaptive.survives),
        distance=torch.full_like(adaptive.distance, torch.nan),
        margin=adaptive.margin.clone(),
        audited=torch.zeros_like(adaptive.audited),
        sampled=torch.zeros_like(adaptive.sampled),
    )
    if len(rows):
        aim = None if adaptive.target is None else adaptive.target[rows]
        with guarded(defended):
            logits = judge(defended, shown, rows, aim, data.pixels()[rows])
        shown.margin[rows] = margin(logits, adaptive.y[rows], aim)
    return shown


def _worse(adaptive: Outcome, transferred: Outcome) -> Outcome:
    """The adaptive outcome with the transferred image wherever that one alone breaks."""
    only = transferred.broken & ~adaptive.broken
    names = ("x_adv", "after", "after_confidence", "broken", "survives", "distance", "margin", "audited", "sampled")
    assert set(names) <= {field.name for field in fields(Outcome)}
    changed: dict[str, Any] = {}
    for name in names:
        mine, theirs = getattr(adaptive, name), getattr(transferred, name)
        changed[name] = torch.where(only.view(-1, *[1] * (mine.ndim - 1)), theirs, mine)
    return replace(adaptive, **changed)
