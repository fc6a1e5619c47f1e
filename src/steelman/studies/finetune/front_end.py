"""Networks behind a V1 front end: the same weights attacked through two derivatives that differ at one point.

The complex cells' square root has an infinite derivative at 0, which black ground meets. Times 0 that is NaN, and the
sign of NaN is 0: an attack by sign leaves those pixels alone, and the network looks robust.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelman.attacks.fgsm import FGSM
from steelman.data import Data
from steelman.engine import guarded, micro_batch, predict
from steelman.evaluate import accuracy, strike
from steelman.models.v_one import VOne, differentiated
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.stats import Share, mcnemar
from steelman.studies.finetune.plan import Plan
from steelman.studies.finetune.words import Arm
from steelman.threats import Ball
from steelman.train import load_run
from steelman.trust import read

RADII = (0.1, 0.35)  # those of the retest that found the artefact; the second one is the original's
DERIVATIVES = ("published", "smooth")
AVERAGED = FGSM(samples=8)  # through the smooth derivative, on the mean of as many draws of the noise
NUM_SHOWN = 8
NUM_LOOKED_AT = 64  # images among which those that moved least are found


@dataclass(frozen=True)
class Front:
    """A network behind a front end: measured before fine-tuning, through both derivatives, and in its arms if any."""

    model: str
    architecture: VOne
    before: dict[str, Any]
    ways: dict[str, Any]
    arms: tuple[Arm, ...] = ()


def both_ways(
    run: Run, plan: Plan, model: Path, twin: Path | None, test: Data, name: str, progress: Progress = silent
) -> dict[str, Any]:
    """FGSM at two radii through the published derivative and through the smooth one, on the same weights and images.

    Through the smooth one also on the mean of many draws of the noise (`AVERAGED`). `twin` is the run of the same back
    end without a front end, struck on the same images. Leaves `results/<name>.json` (what is returned), every image's
    outcome, and pictures of attacked images; computed at most once.
    """
    if run.has(f"results/{name}.json"):
        return run.read_json(name)
    network, few = load_run(model).model, test.first(plan.scale.num_probe)
    networks: dict[str, nn.Module] = dict.fromkeys((*DERIVATIVES, "averaged"), network)
    right: dict[str, Tensor] = dict.fromkeys(networks, accuracy(network, test))
    if twin is not None:
        networks["plain"] = load_run(twin).model
        right["plain"] = accuracy(networks["plain"], test)
    held: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    for eps in RADII:
        threat, row = plan.threat.at(eps), dict[str, Any](eps=eps)
        for way, one in networks.items():
            attack, watched = AVERAGED if way == "averaged" else FGSM(), test if way == "published" else few
            with differentiated(one, "published" if way == "published" else "smooth"):
                row[way], after = _struck(one, test, attack, threat, watched, progress)
            held[f"{way} {eps:g}"] = right[way] & after
            row[way]["robust"] = Share.of(held[f"{way} {eps:g}"]).to_json()
        pairs = (("published", "smooth"), ("plain", "averaged"))
        row["p"] = {
            one: mcnemar(held[f"{one} {eps:g}"], held[f"{other} {eps:g}"]).p for one, other in pairs if one in row
        }
        rows.append(row)
    run.write_tensors(f"examples/{name}-images.safetensors", held)
    shown, words = _pictures(network, test, plan.threat.at(RADII[-1]))
    run.write_tensors(f"examples/{name}-pictures.safetensors", {"x": shown})
    found = {"stem": name, "rows": rows, "words": words}
    run.write_json(name, found)
    return found


def _struck(
    model: nn.Module, test: Data, attack: FGSM, threat: Ball, watched: Data, progress: Progress
) -> tuple[dict[str, Any], Tensor]:
    """How much of an attack on all images took place, and which of them are right after it.

    The last candidate counts whatever a random model said of earlier ones. A strike on the images that are `watched`
    tells of the gradients.
    """
    outcome = strike(model, watched, attack, threat, progress=progress)
    x_adv, after = _attacked(model, test, attack, threat)
    struck, health = outcome.right, outcome.health
    moved = (x_adv != test.pixels()).flatten(1).float().mean(1)
    facts = {
        "gradient_nan": float((health.nan / health.steps.clamp_min(1))[struck].sum()) / max(1, int(struck.sum())),
        "pixels_moved": float(moved.mean()),
        "still": Share.of(moved == 0).to_json(),
        "trust": [dataclasses.asdict(check) for check in read(outcome)],
        "watched": len(watched),
    }
    return facts, after == test.labels


def _attacked(model: nn.Module, data: Data, attack: FGSM, threat: Ball) -> tuple[Tensor, Tensor]:
    """FGSM's image for every image, right before or not, and what the network says of it."""
    x, y = data.pixels(), data.labels
    with guarded(model):
        batch = micro_batch(model, x)
        parts = zip(x.split(batch), y.split(batch), strict=True)
        x_adv = torch.cat([attack.perturb(model, part, labels, threat) for part, labels in parts])
        return x_adv, predict(model, x_adv, batch).argmax(1)


def _pictures(model: nn.Module, test: Data, threat: Ball) -> tuple[Tensor, list[str]]:
    """The images that FGSM moves least: as they are, through the published derivative, and through the smooth one."""
    with differentiated(model, "published"):
        x_adv, _ = _attacked(model, test.first(NUM_LOOKED_AT), FGSM(), threat)
    x = test.first(NUM_LOOKED_AT).pixels()
    rows = (x_adv != x).flatten(1).sum(1).argsort(stable=True)[:NUM_SHOWN]
    chosen = test.take(rows)
    x = chosen.pixels()
    shown, words = [x], [f"a {test.classes[label]}" for label in chosen.labels.tolist()]
    for derivative in DERIVATIVES:
        with differentiated(model, derivative):
            x_adv, guesses = _attacked(model, chosen, FGSM(), threat)
        shares = (x_adv != x).flatten(1).float().mean(1).tolist()
        words += [f"moved {100 * m:.0f} %: “{test.classes[g]}”" for m, g in zip(shares, guesses.tolist(), strict=True)]
        shown.append(x_adv.clamp(0, 1))
    return torch.cat(shown), words
