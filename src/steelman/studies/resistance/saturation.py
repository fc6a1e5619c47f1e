"""The finding by itself: "infinite resistance" is a softmax that is exactly 1.0 in float32.

The images on which attack C fails when it follows the softmax probability, as published, are attacked again: by the
same attack on the same softmax, to look at its gradients; by the same attack on the logits; and by a reference attack.
"""

from typing import Any

import torch

from steelman.attacks.gda import GDA
from steelman.data import Data
from steelman.progress import Progress, silent
from steelman.runs import Run
from steelman.stats import Share
from steelman.studies.resistance.course import Course, follow
from steelman.studies.resistance.held import Held, nearest
from steelman.studies.resistance.minimal import against_itself, health
from steelman.studies.resistance.plan import Plan, reference
from steelman.studies.resistance.zoo import Network

STILL = 1e-3  # a peak |r|_2 below this is no attack


def measured(
    run: Run, plan: Plan, subject: Network, data: Data, found: Held, progress: Progress = silent
) -> dict[str, Any]:
    """What becomes of the images of infinite resistance; computed at most once."""
    if run.has("results/saturation.json"):
        return run.read_json("saturation")
    label = subject.predicted("test")[: len(data)]
    if plan.published:
        course, rows = found.course, torch.arange(len(data))
    else:  # the corrected courses are those on logits: the softmax is looked at on fewer images
        rows = torch.arange(min(len(data), 2 * plan.scale.num_finding))
        course = follow(subject.model, data.pixels(rows), label[rows], plan.course("softmax"))
    progress(1, 4, "attack C on the softmax")
    infinite = (~course.reached).nonzero().squeeze(1)
    facts = _starts(course)
    if len(infinite):
        facts |= _again(plan, subject, data, rows[infinite], label, found, progress)
    run.write_json("saturation", facts)
    return facts


def _starts(course: Course) -> dict[str, Any]:
    """How the images began, those of infinite resistance and the others apart."""
    infinite = ~course.reached
    return {
        "infinite": Share.of(infinite).to_json(),
        **{
            f"{key}_{group}": Share.of(mask[chosen]).to_json()
            for key, mask in (
                ("sure", course.sure),
                ("dead", course.dead),
                ("pulled", (course.confidences < GDA.published[1]).any(1)),
                ("stuck", course.peak < STILL),
            )
            for group, chosen in (("infinite", infinite), ("finite", ~infinite))
        },
    }


def _again(
    plan: Plan, subject: Network, data: Data, rows: torch.Tensor, label: torch.Tensor, found: Held, progress: Progress
) -> dict[str, Any]:
    """All images of infinite resistance against the reference attack, the first of them also against C both ways."""
    broken = found.distance[rows].isfinite()
    missed = rows[~broken]
    if len(missed):  # a longer search for the few that are left
        again, _ = nearest(subject.model, data.pixels(missed), label[missed], 4 * plan.scale.nearest)
        broken[~broken] = again.isfinite()
    few = rows[: plan.scale.num_finding]
    x, y = data.pixels(few), label[few]
    table: list[dict[str, Any]] = []
    for done, (words, attack) in enumerate(
        (
            ("C on the softmax, as published", plan.course("softmax")),
            ("C on the logits", plan.course("logits")),
            ("DDN", reference(plan.scale.nearest)),
        )
    ):
        outcome = against_itself(subject.model, x, y, attack, 2.0)
        middle = outcome.distance[outcome.broken].median() if outcome.broken.any() else None
        table.append(
            {
                "attack": words,
                "spec": repr(attack),
                "broken": Share.of(outcome.broken).to_json(),
                "median": None if middle is None else float(middle),
                **health(outcome),
            }
        )
        progress(done + 2, 4, words)
    known = found.distance[rows][found.distance[rows].isfinite()]
    return {
        "broken": Share.of(broken).to_json(),
        "median": float(known.median()) if len(known) else None,
        "table": table,
    }
