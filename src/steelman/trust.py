"""Can I trust this number? Checks of one outcome, each with a verdict in plain words and a remedy.

The list follows Carlini et al. 2019, On evaluating adversarial robustness (arXiv:1902.06705), and Athalye et al. 2018,
Obfuscated gradients give a false sense of security (arXiv:1802.00420).
"""

import math
from collections.abc import Iterator

from torch import Generator, nn

from steelman.chance import drawing_from
from steelman.data import Data
from steelman.engine import generator_for
from steelman.errors import UsageError
from steelman.evaluate import Outcome
from steelman.page import Check, Trust, Verdict
from steelman.probes import probe
from steelman.stats import Share, most_left
from steelman.threats import L0
from steelman.wording import percent

SAMPLE = 128  # images that the probes look at


def examine(
    model: nn.Module,
    data: Data,
    outcome: Outcome,
    *,
    subject: str = "",
    generator: Generator | None = None,
    sample: int = SAMPLE,
) -> Trust:
    """All checks of an outcome: those its own rows answer, and probes of the model on its first `sample` images.

    `data` are the images that the outcome is about, in its order.

    Raises:
        UsageError: they are not.
    """
    if len(data) != len(outcome.y):
        raise UsageError(
            f"the outcome is about {len(outcome.y)} images, {len(data)} were given. Give those of the strike."
        )
    generator = generator or generator_for(data.images)
    with drawing_from(model, generator.initial_seed()):
        checks = (*read(outcome), *probe(model, data.first(sample), outcome, generator=generator))
    return Trust(subject or f"{outcome.attack!r} within {outcome.threat!r}", checks)


def read(outcome: Outcome) -> Iterator[Check]:
    """The checks that need no further computation."""
    yield from _gradient_checks(outcome)
    yield _eight_bits(outcome)
    yield _radius(outcome)
    if int(outcome.rejected.sum()):
        yield _rejected(outcome)
    if outcome.proven.any():
        share = Share.of(outcome.proven & outcome.right)
        words = f"Bounds prove {share} to hold: whatever attack is tried, these stay right."
        yield Check("proven", "info", str(int(outcome.proven.sum())), words, "")
    if outcome.audited.any():
        yield _audit(outcome)
    if outcome.was_training:
        words = "The model was handed over in train mode. It was measured in eval mode; its own state is untouched."
        yield Check("train mode", "info", "train", words, "Call model.eval() before you measure elsewhere.")


def _gradient_checks(outcome: Outcome) -> Iterator[Check]:
    health, attacked = outcome.health, outcome.right & ~outcome.proven
    asked = attacked & (health.steps > 0)
    if asked.any():
        steps = health.steps[asked].float()
        nan, dead = health.nan[asked] / steps, health.dead[asked] == health.steps[asked]
        value = f"{percent(float(nan.mean()))} of entries, {percent(float((nan > 0).float().mean()))} of images"
        yield Check.of(
            "gradient NaN",
            "fail" if nan.any() else "ok",
            value,
            "No gradient entry was NaN."
            if not nan.any()
            else f"{value} have NaN gradients; the sign of NaN is 0, so those pixels were not attacked at all.",
            "Find the layer with an infinite derivative (a square root at 0, a division by 0) and smooth it, or "
            "evaluate with --repair-gradients.",
        )
        share, count = float(dead.float().mean()), f"{int(dead.sum())} of {len(dead)}"
        yield Check.of(
            "gradient zero",
            "fail" if share > 0.05 else "warn" if share > 0 else "ok",
            f"{count} images, {percent(float((health.zero[asked] / steps).mean()))} of entries",
            "Every image had a usable gradient."
            if not share
            else f"{count} attacked images never had a usable gradient: their robustness is unknown.",
            "Attack with loss='margin' or 'dlr', on logits, with --repair-gradients, and without gradients (Square()).",
        )
        saturated = float((health.saturated[asked] / steps).mean())
        yield Check.of(
            "softmax saturated",
            "warn" if saturated > 0.05 else "ok",
            f"{percent(saturated)} of evaluations",
            "The softmax stayed below 1.0 in float32 in nearly all evaluations."
            if saturated <= 0.05
            else f"In {percent(saturated)} of the evaluations the confidence was exactly 1.0 in float32: "
            "the cross-entropy has no gradient there.",
            "Attack with loss='margin' or 'dlr'.",
        )
    if attacked.any() and outcome.threat.eps > 0:
        moved = health.moved[attacked]
        broken = outcome.margin[attacked] > 0  # a random model may break an image that has not moved yet
        still = float(((moved == 0) & ~broken).float().mean())
        yield Check.of(
            "pixels moved",
            "fail" if still > 0.01 else "ok",
            f"{percent(float(moved.mean()))} of pixels",
            "Every attacked image was changed."
            if not still
            else f"{percent(still)} of the attacked images were never changed: they were not attacked at all.",
            "Look at the gradient checks above; robustness of an image that did not move means nothing.",
        )


def _eight_bits(outcome: Outcome) -> Check:
    broken = int(outcome.broken.sum())
    if not broken:
        return Check("8-bit survival", "info", "none broken", "No image was broken, so there is none to store.")
    share = int(outcome.survives.sum()) / broken
    words = f"{percent(share)} of the broken images are still broken after rounding to 8 bits, as in a PNG."
    if share < 0.95:
        words += (
            " The attack looks for the nearest success, which lies on the boundary: rounding undoes that by design."
            if outcome.attack.seeks_nearest()
            else " An attack stops at its first success, often just across the boundary, so this is hard on it: "
            "the accuracy is not in doubt, the stored files are."
        )
    return Check.of(
        "8-bit survival",
        "ok" if share >= 0.95 else "warn",
        percent(share),
        words,
        "Save as .npz or .safetensors, or attack with a larger eps.",
    )


def _rejected(outcome: Outcome) -> Check:
    share = percent(int(outcome.rejected.sum()) / max(1, int(outcome.forwards.sum())))
    if outcome.attack.strays(outcome.threat):
        words = f"The search looks beyond eps by design: {share} of the candidates lay there and were not counted."
        return Check("candidates allowed", "ok", share, words)
    words = f"{share} of the candidates lay outside the threat and were not counted."
    return Check("candidates allowed", "info", share, words)


def _audit(outcome: Outcome) -> Check:
    """What the full ensemble found among the images that a budgeted attack gave up."""
    left = outcome.right & ~outcome.broken & ~outcome.proven & ~outcome.audited
    masks = (left, outcome.audited, outcome.sampled, outcome.audited & outcome.broken)
    others, audited, sampled, missed = (int(mask.sum()) for mask in masks)
    value = f"{missed} of {audited}"
    words = f"AutoAttack was run on {audited} images that the search gave up, and broke {missed}."
    if not others:
        return Check("missed breaks", "ok", value, words + " No image that holds was spared it.", "")
    hits = int((outcome.sampled & outcome.broken).sum())  # one of a random model may break when it is judged again
    bound = most_left(hits, sampled, others)
    drawn = (
        "" if sampled == audited else f" Of the last {sampled} of these, drawn at random, it broke {hits or 'none'}."
    )
    words += f"{drawn} Of the {others} others that hold it would break at most {bound} (95 % confidence)."
    return Check("missed breaks", "info", value, words, "Attack more images in full: Reliable(audit=100).")


def _radius(outcome: Outcome) -> Check:
    threat = outcome.threat
    height, width = outcome.x_adv.shape[2:]
    largest = threat.largest((outcome.x_adv.shape[1], height, width))
    beyond = math.isfinite(threat.eps) and threat.eps > largest
    enough = largest if isinstance(threat, L0) else largest / 2  # the way from any image to mid-grey
    grey = math.isfinite(threat.eps) and threat.eps >= enough
    clip = "" if threat.clip else " Pixels may leave [0, 1]: such images cannot be stored or shown."
    words = "eps lies within the pixel range."
    if math.isinf(threat.eps):
        words = "eps has no limit within the pixel range: how far each image holds is the question."
    elif beyond:
        words = f"eps {threat.eps:g} is beyond the pixel range: every image is allowed. Was eps meant for 0 to 255?"
    elif grey:
        words = f"eps {threat.eps:g} lets an attacker turn every image grey: no classifier can hold."
    verdict: Verdict = "fail" if beyond else "warn" if grey or clip else "ok"
    return Check.of("eps and range", verdict, f"{threat!r}", words + clip, "Choose a smaller eps, and clip.")
